/**
 * `npm run cluster`: a whole cluster on this machine to look at and to break. It prints addresses,
 * who owns what, and each change as it happens; commands on standard input kill, stop, start, pause
 * and resume what is there, one after the other. Ctrl-C, `quit` or the end of the input ends everything in order; a
 * process that ends by itself is told with its last words.
 */
import { createInterface, type Interface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { alignColumns } from "../../bench/statistics.ts";
import type { ClusterBody } from "../../gateway/routes/cluster-schemas.ts";
import type { TestServer } from "../stage/servers.ts";
import { renderCluster } from "./cluster-table.ts";
import { startCluster, type LocalCluster, type Member, type ShardRow } from "./local-cluster.ts";
import { messageOf } from "../../src/message-of.ts";

const USAGE = `Usage: npm run cluster -- [options]
  --hosts <1-9>        hosts (3)
  --gateways <1-9>     gateways (2), on port 3000 and those after it
  --port <number>      port of the first gateway (3000; 0: free ones)
  --databases <1-4>    PostgreSQL servers that the shards are spread over (1)
  --lanes <1-16>       lanes of each host (1)
  --data <dir>         keeps the data there; without it all is gone at the end
  --help`;

const COMMANDS = `  status                all processes, and who serves what
  kill <name>           SIGKILL: host-2, gateway-1, postgres-1, nats, redis
  stop <name>           SIGTERM: a host or gateway hands over and ends; a server is killed
  start <name>          starts it again; a new name such as host-4 joins
  pause <name>          SIGSTOP: it is there and does nothing
  resume <name>         SIGCONT
  log <name>            the last lines that this host or gateway wrote
  help, quit`;

/** Commands that name a process. */
const VERBS = new Set(["kill", "stop", "start", "pause", "resume", "log"]);

const watchMs = 200;
/**
 * Changes are told when the shards have been at rest for this long, or at the latest after that
 * long.
 */
const restMs = 400;
const untoldMsMax = 2_000;
const logLines = 15;

interface Settings {
  readonly hosts: number;
  readonly gateways: number;
  readonly port: number;
  readonly databases: number;
  readonly lanes: number;
  readonly data: string | undefined;
}

function readSettings(): Settings {
  const { values } = parseArgs({
    options: {
      hosts: { type: "string", default: "3" },
      gateways: { type: "string", default: "2" },
      port: { type: "string", default: "3000" },
      databases: { type: "string", default: "1" },
      lanes: { type: "string", default: "1" },
      data: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    process.stdout.write(`${USAGE}\n\nCommands while it runs:\n${COMMANDS}\n`);
    process.exit(0);
  }
  return {
    hosts: wholeIn("--hosts", values.hosts, 1, 9),
    gateways: wholeIn("--gateways", values.gateways, 1, 9),
    port: wholeIn("--port", values.port, 0, 65_000),
    databases: wholeIn("--databases", values.databases, 1, 4),
    lanes: wholeIn("--lanes", values.lanes, 1, 16),
    data: values.data,
  };
}

function wholeIn(name: string, text: string, lowest: number, highest: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (value >= lowest && value <= highest) return value;
  throw new Error(`${name} takes a whole number from ${lowest} to ${highest}, not "${text}"`);
}

const startedAtMs = performance.now();

function say(text: string): void {
  const atSeconds = ((performance.now() - startedAtMs) / 1_000).toFixed(1);
  process.stdout.write(`${atSeconds.padStart(7)} s  ${text}\n`);
}

// --- Who owns what -------------------------------------------------------------------------------

/** What `GET /cluster` of any gateway says; null when none answers. */
async function askGateways(cluster: LocalCluster): Promise<ClusterBody | null> {
  for (const { baseUrl, state } of cluster.gateways) {
    if (state !== "running") continue;
    try {
      const answer = await fetch(`${baseUrl}/cluster`, { signal: AbortSignal.timeout(3_000) });
      if (answer.ok) return (await answer.json()) as ClusterBody;
    } catch {
      // The next gateway, if there is one.
    }
  }
  return null;
}

/** The processes as this one knows them, and the cluster as its gateways see it. */
async function statusOf(cluster: LocalCluster, servers: readonly Server[]): Promise<string> {
  const rows = [
    ["process", "state", "pid", "address"],
    ...[...cluster.gateways, ...cluster.hosts].map(({ id, state, pid, baseUrl }) => [
      id,
      state,
      pid === 0 ? "-" : String(pid),
      baseUrl,
    ]),
    ...servers.map(({ name, state, server: { pid, url } }) => [
      name,
      state,
      pid === 0 ? "-" : String(pid),
      url,
    ]),
  ];
  const body = await askGateways(cluster);
  const view = body === null ? "! no gateway answers" : renderCluster(body);
  return `${alignColumns(rows, rows[0]!.length).join("\n")}\n\n${view}`;
}

/** What became of the shards between two looks, such as `host-1 -> host-3: 44 shards`. */
function movesBetween(before: readonly ShardRow[], after: readonly ShardRow[]): string[] {
  const moves = new Map<string, number>();
  for (const { shard, hostId } of after) {
    const from = before[shard]?.hostId ?? null;
    if (from === hostId) continue;
    const way = `${from ?? "nobody"} -> ${hostId ?? "nobody"}`;
    moves.set(way, (moves.get(way) ?? 0) + 1);
  }
  return [...moves].map(([way, count]) => `${count} shards: ${way}`);
}

/** Tells what moved, once it is at rest, so that a hand-over of many shards is one line. */
async function watchShards(cluster: LocalCluster, signal: AbortSignal): Promise<void> {
  let told: readonly ShardRow[] = await cluster.shards().catch(() => []);
  let last = JSON.stringify(told);
  let changedAtMs = 0;
  let untoldSinceMs = 0;
  let isAway = false;
  while (!signal.aborted) {
    await sleep(watchMs);
    const shards = await cluster.shards().catch(() => null);
    if (signal.aborted) return;
    if ((shards === null) !== isAway) {
      isAway = shards === null;
      say(isAway ? "the database does not answer" : "the database answers again");
    }
    if (shards === null) continue;
    const nowMs = performance.now();
    const text = JSON.stringify(shards);
    if (text !== last) {
      changedAtMs = nowMs;
      untoldSinceMs ||= nowMs;
    }
    last = text;
    const isAtRest = nowMs - changedAtMs >= restMs;
    if (untoldSinceMs === 0 || !(isAtRest || nowMs - untoldSinceMs >= untoldMsMax)) continue;
    for (const move of movesBetween(told, shards)) say(move);
    told = shards;
    untoldSinceMs = 0;
  }
}

// --- Commands ------------------------------------------------------------------------------------

/** Servers and what is done to them; a host or gateway knows its own state. */
type ServerState = "running" | "killed" | "paused";

interface Server {
  readonly name: string;
  readonly server: TestServer;
  state: ServerState;
}

function serversOf({ postgres, nats, redis }: LocalCluster): Server[] {
  const databases = postgres.map((server, index) => ({ name: `postgres-${index + 1}`, server }));
  const servers = [...databases, { name: "nats", server: nats }, { name: "redis", server: redis }];
  return servers.map((one) => ({ ...one, state: "running" }));
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function treatMember(member: Member, what: string): Promise<string> {
  if (member.pid === 0 && (what === "kill" || what === "stop")) {
    return `${member.id} does not run: ${member.state}`;
  }
  switch (what) {
    case "kill":
      await member.kill();
      return `${member.id} was killed`;
    case "stop": {
      const exit = await member.stop();
      return `${member.id} has ended with code ${exit.code}`;
    }
    case "start":
      await member.start();
      return `${member.id} runs, pid ${member.pid}, ${member.baseUrl}`;
    case "pause":
      member.pause();
      return `${member.id} is frozen`;
    case "resume":
      member.resume();
      return `${member.id} wakes`;
    case "log":
      return `${member.id}:\n${lastWords(member)}`;
    default:
      return `${member.id} knows no "${what}"`;
  }
}

async function treatServer(one: Server, what: string): Promise<string> {
  const { name, server } = one;
  switch (what) {
    case "kill":
    case "stop":
      if (one.state === "paused") process.kill(server.pid, "SIGCONT");
      one.state = "killed";
      await server.kill();
      return `${name} was killed`;
    case "start":
      if (one.state !== "killed") return `${name} runs already`;
      await server.restart();
      one.state = "running";
      return `${name} is there again, pid ${server.pid}`;
    case "pause":
      if (name.startsWith("postgres")) return "PostgreSQL is many processes; kill it instead";
      if (one.state !== "running") return `${name} is ${one.state}`;
      process.kill(server.pid, "SIGSTOP");
      one.state = "paused";
      return `${name} is frozen`;
    case "resume":
      if (one.state !== "paused") return `${name} is ${one.state}`;
      process.kill(server.pid, "SIGCONT");
      one.state = "running";
      return `${name} wakes`;
    default:
      return `${what} is for hosts and gateways, not for ${name}`;
  }
}

function lastWords({ output }: Member): string {
  if (output.trim() === "") return "    nothing yet";
  const lines = output.trimEnd().split("\n").slice(-logLines);
  return lines.map((line) => `    ${line}`).join("\n");
}

async function obey(
  cluster: LocalCluster,
  servers: readonly Server[],
  line: string,
): Promise<void> {
  const [what = "", name = ""] = line.trim().split(/\s+/);
  if (what === "") return;
  if (what === "help") return say(`commands:\n${COMMANDS}`);
  if (what === "status") return say(`status\n${await statusOf(cluster, servers)}`);
  if (!VERBS.has(what)) throw new Error(`what is "${what}"? Try help`);
  const server = servers.find((one) => one.name === name);
  if (server !== undefined) return say(await treatServer(server, what));
  const isNew = /^host-\d+$/.test(name) && !cluster.hosts.some(({ id }) => id === name);
  if (what === "start" && isNew) {
    const host = await cluster.addHost(name);
    return say(`${name} joins, pid ${host.pid}`);
  }
  const members = [...cluster.gateways, ...cluster.hosts];
  const member = members.find(({ id }) => id === name);
  if (member !== undefined) return say(await treatMember(member, what));
  const names = [...members.map(({ id }) => id), ...servers.map((one) => one.name)].join(", ");
  throw new Error(name === "" ? `${what} what? ${names}` : `there is no ${name}, only ${names}`);
}

// --- The session ---------------------------------------------------------------------------------

/** Resolves when the person has had enough. */
async function converse(cluster: LocalCluster, servers: readonly Server[]): Promise<void> {
  const lines = createInterface({ input: process.stdin, terminal: false });
  const interrupted = new AbortController();
  const interruption = new Promise<void>((done) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
      process.once(signal, () => {
        say(`${signal}: everything ends`);
        interrupted.abort();
        done();
      });
    }
  });
  await Promise.race([interruption, obeyAll(cluster, servers, lines, interrupted.signal)]);
  lines.close();
}

/** One after the other: what is pasted may need what stands before it. */
async function obeyAll(
  cluster: LocalCluster,
  servers: readonly Server[],
  lines: Interface,
  interrupted: AbortSignal,
): Promise<void> {
  for await (const line of lines) {
    // Those that were read before it closed still come.
    if (interrupted.aborted || /^\s*(quit|exit)\s*$/.test(line)) return;
    await obey(cluster, servers, line).catch((error: unknown) => say(messageOf(error)));
  }
}

/**
 * Servers are no children of the cluster's members: whether they still run is looked at now and
 * then.
 */
function watchServers(servers: readonly Server[]): NodeJS.Timeout {
  return setInterval(() => {
    for (const one of servers) {
      if (one.state === "killed" || isAlive(one.server.pid)) continue;
      one.state = "killed";
      say(`${one.name} has died by itself; "start ${one.name}" starts it again`);
    }
  }, watchMs);
}

async function main(): Promise<void> {
  let settings: Settings;
  try {
    settings = readSettings();
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n${USAGE}\n`);
    process.exit(2);
  }
  try {
    await run(settings);
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n`);
    if (settings.port > 0)
      process.stderr.write("Where ports are taken, --port 0 finds free ones\n");
    process.exit(1);
  }
}

async function run(settings: Settings): Promise<void> {
  const { port, data, ...counts } = settings;
  say("starting PostgreSQL, NATS, Redis, hosts and gateways");
  const cluster = await startCluster({
    ...counts,
    ...(data === undefined ? {} : { dataDir: data }),
    ...(port === 0 ? {} : { firstPort: port }),
    onDeath: (member, { code, signal }) =>
      say(`${member.id} has died by itself (${signal ?? `code ${code}`}):\n${lastWords(member)}`),
  });
  const servers = serversOf(cluster);
  const watching = new AbortController();
  const watched = watchShards(cluster, watching.signal);
  const timer = watchServers(servers);
  try {
    for (const { id, baseUrl } of cluster.gateways)
      say(`${id}: ${baseUrl}, docs at ${baseUrl}/docs`);
    say(`status\n${await statusOf(cluster, servers)}`);
    say('"help" lists what you can do to it; Ctrl-C ends it all');
    await converse(cluster, servers);
  } finally {
    clearInterval(timer);
    watching.abort();
    await watched;
    for (const { server, state } of servers)
      if (state === "paused") process.kill(server.pid, "SIGCONT");
    await cluster.stop();
  }
  say(
    data === undefined
      ? "everything has ended, nothing is left"
      : `everything has ended; the data is in ${data}`,
  );
}

await main();
