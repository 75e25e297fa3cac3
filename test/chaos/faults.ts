/**
 * The faults: a plan that a seed repeats, and the hand that carries it out on a cluster's
 * processes. Faults overlap, but each process has one at a time, and one of the hosts is always
 * left alone, so that whoever cannot be served was let down by the others. What a fault breaks it
 * also mends: when `inject` resolves, everything runs again.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { query, type LocalCluster, type Member } from "../cluster/local-cluster.ts";
import type { TestServer } from "../stage/servers.ts";
import { randomFrom } from "../stage/workload.ts";
import { messageOf } from "../../src/message-of.ts";

/**
 * How long the process is away or frozen, in milliseconds: shortest and longest, the short ones
 * being more likely. Where the longest is beyond a command's deadline, callers must be told the
 * truth about what they cannot know.
 */
const FAULTS = {
  "kill-host": { lastsMs: [500, 5_000] },
  /** SIGTERM, and a new start later. */
  "stop-host": { lastsMs: [100, 3_000] },
  /**
   * SIGSTOP beyond its sign of life: others take its shards, and it wakes as one who was
   * superseded.
   */
  "pause-host": { lastsMs: [4_000, 6_000] },
  /** SIGSTOP within its sign of life: nobody may notice but those who wait for it. */
  "stall-host": { lastsMs: [200, 1_200] },
  /** A new host comes, and leaves in order after this time. */
  "join-host": { lastsMs: [4_000, 8_000] },
  "kill-gateway": { lastsMs: [100, 1_500] },
  "stop-gateway": { lastsMs: [100, 1_500] },
  "kill-postgres": { lastsMs: [100, 12_000] },
  /**
   * Whoever has a session there loses it, as often as it comes back; the server goes on, also with
   * the commits that it was about to do.
   */
  "end-sessions": { lastsMs: [0, 3_000] },
  "kill-nats": { lastsMs: [100, 12_000] },
  /** It keeps its connections and answers nothing. */
  "stall-nats": { lastsMs: [300, 12_000] },
  "kill-redis": { lastsMs: [500, 5_000] },
  "stall-redis": { lastsMs: [500, 4_000] },
} as const satisfies Record<string, { readonly lastsMs: readonly [number, number] }>;

export type FaultKind = keyof typeof FAULTS;
export const FAULT_KINDS = Object.keys(FAULTS) as readonly FaultKind[];

export interface Fault {
  readonly kind: FaultKind;
  /** After the start of the plan. */
  readonly atMs: number;
  readonly lastsMs: number;
  /** Which one of those that can be met, by a number to be taken modulo their count. */
  readonly pick: number;
}

export interface FaultPlan {
  readonly seed: number;
  /** Faults begin before this time. */
  readonly durationMs: number;
  readonly kinds?: readonly FaultKind[];
  /** Pause between the beginnings of two faults, shortest and longest. */
  readonly gapMs?: readonly [number, number];
  /** No fault lasts longer, unless its kind must. Default: as long as its kind may. */
  readonly lastsMsMax?: number;
}

/** Every kind once in a shuffled order, then again in another one, until the time is over. */
export function planFaults(plan: FaultPlan): Fault[] {
  const { seed, durationMs, kinds = FAULT_KINDS, gapMs = [1_000, 4_000] } = plan;
  const { lastsMsMax = Infinity } = plan;
  const random = randomFrom(seed);
  const between = (lowest: number, highest: number): number =>
    Math.round(lowest + random() * (highest - lowest));
  const faults: Fault[] = [];
  let bag: FaultKind[] = [];
  for (let atMs = between(0, gapMs[0]); atMs < durationMs; atMs += between(gapMs[0], gapMs[1])) {
    if (bag.length === 0) bag = [...kinds];
    const [kind] = bag.splice(between(0, bag.length - 1), 1) as [FaultKind];
    const [shortestMs, longestMs] = FAULTS[kind].lastsMs;
    const boundMs = Math.max(shortestMs, Math.min(longestMs, lastsMsMax));
    const lastsMs = Math.round(shortestMs + random() ** 2 * (boundMs - shortestMs));
    faults.push({ kind, atMs, lastsMs, pick: between(0, 1_000) });
  }
  return faults;
}

export interface Injection {
  readonly cluster: LocalCluster;
  readonly faults: readonly Fault[];
  /** One line for each thing that is done to a process, when it is done. */
  readonly log: (line: string) => void;
  readonly onFault: (kind: FaultKind) => void;
}

const victimPollMs = 50;

/**
 * Carries the plan out; resolves when all is mended. Rejects when a process cannot be brought back.
 */
export async function inject({ cluster, faults, log, onFault }: Injection): Promise<void> {
  const startedAtMs = performance.now();
  /** Names of those who have a fault now. */
  const busy = new Set<string>();
  const underWay: Array<Promise<void>> = [];
  const failures: unknown[] = [];
  /** How far the plan is behind, because somebody had to be mended first. */
  let lateMs = 0;
  for (const fault of faults) {
    await sleep(startedAtMs + fault.atMs + lateMs - performance.now());
    const dueAtMs = performance.now();
    let victim = chooseVictim(cluster, fault, busy);
    while (victim === null && failures.length === 0) {
      // Whoever is not there and not about to be mended has died by itself.
      if (busy.size === 0) failures.push(new Error(`nobody is left for ${fault.kind}`));
      await sleep(victimPollMs);
      victim = chooseVictim(cluster, fault, busy);
    }
    if (victim === null || failures.length > 0) break;
    lateMs += performance.now() - dueAtMs;
    const { name, suffer } = victim;
    busy.add(name);
    onFault(fault.kind);
    const carriedOut = suffer((what) => log(`${fault.kind.padEnd(14)} ${name} ${what}`))
      .catch((error: unknown) => void failures.push(error))
      .finally(() => busy.delete(name));
    underWay.push(carriedOut);
  }
  await Promise.all(underWay);
  if (failures.length > 0) throw failures[0];
}

interface Victim {
  readonly name: string;
  /** Breaks it and mends it. */
  readonly suffer: (tell: (what: string) => void) => Promise<void>;
}

function chooseVictim(cluster: LocalCluster, fault: Fault, busy: Set<string>): Victim | null {
  const { kind, lastsMs, pick } = fault;
  const free = (members: readonly Member[]): Member[] =>
    members.filter(({ id, state }) => state === "running" && !busy.has(id));
  const oneOf = <One>(ones: readonly One[]): One | undefined => ones[pick % ones.length];
  const restarted = (member: Member | undefined, end: "kill" | "stop"): Victim | null =>
    member === undefined ? null : restart(member, end, lastsMs);
  const hosts = free(cluster.hosts);

  switch (kind) {
    case "kill-host":
      return hosts.length < 2 ? null : restarted(oneOf(hosts), "kill");
    case "stop-host":
      return hosts.length < 2 ? null : restarted(oneOf(hosts), "stop");
    case "pause-host":
    case "stall-host": {
      const host = hosts.length < 2 ? undefined : oneOf(hosts);
      return host === undefined ? null : freeze(host, lastsMs);
    }
    case "join-host":
      return join(cluster, busy, lastsMs);
    case "kill-gateway":
      return restarted(oneOf(free(cluster.gateways)), "kill");
    case "stop-gateway":
      return restarted(oneOf(free(cluster.gateways)), "stop");
    case "kill-postgres": {
      const index = pick % cluster.postgres.length;
      return crash(`postgres-${index + 1}`, cluster.postgres[index], lastsMs, busy);
    }
    case "end-sessions": {
      const index = pick % cluster.databaseUrls.length;
      return endSessions(`postgres-${index + 1}`, cluster.databaseUrls[index]!, lastsMs, busy);
    }
    case "kill-nats":
      return crash("nats", cluster.nats, lastsMs, busy);
    case "kill-redis":
      return crash("redis", cluster.redis, lastsMs, busy);
    case "stall-nats":
      return stall("nats", cluster.nats, lastsMs, busy);
    case "stall-redis":
      return stall("redis", cluster.redis, lastsMs, busy);
    default:
      return kind satisfies never;
  }
}

function restart(member: Member, end: "kill" | "stop", lastsMs: number): Victim {
  return {
    name: member.id,
    async suffer(tell) {
      const { pid } = member;
      tell(end === "kill" ? `(pid ${pid}) killed` : `(pid ${pid}) told to end`);
      const exit = await member[end]();
      if (end === "stop" && exit.code !== 0) {
        throw new Error(`${member.id} ended with ${JSON.stringify(exit)} after SIGTERM`);
      }
      if (end === "stop") tell("has ended");
      await sleep(lastsMs);
      await startAgain(member, tell);
      tell(`started again (pid ${member.pid})`);
    },
  };
}

const restartPauseMs = 500;
const restartMsMax = 60_000;

/**
 * As an orchestrator does: what ends while it starts, because something that it needs is away too,
 * is started again.
 */
async function startAgain(member: Member, tell: (what: string) => void): Promise<void> {
  const deadlineMs = performance.now() + restartMsMax;
  for (;;) {
    try {
      await member.start();
      return;
    } catch (error) {
      if (performance.now() > deadlineMs) throw error;
      tell(`ended while it started: ${reasonOf(error)}`);
      await sleep(restartPauseMs);
    }
  }
}

/** The message of the last line of its log. */
function reasonOf(error: unknown): string {
  const text = messageOf(error);
  const found = [...text.matchAll(/"message":"([^"]*)"/g)].at(-1)?.[1];
  return found ?? text.slice(0, 200);
}

function freeze(member: Member, lastsMs: number): Victim {
  return {
    name: member.id,
    async suffer(tell) {
      member.pause();
      tell(`(pid ${member.pid}) frozen for ${lastsMs} ms`);
      await sleep(lastsMs);
      member.resume();
      tell("wakes");
    },
  };
}

/** A host that was here before comes back under its name; else a new one is made. */
function join(cluster: LocalCluster, busy: Set<string>, lastsMs: number): Victim {
  const former = cluster.hosts.find(({ id, state }) => state === "stopped" && !busy.has(id));
  const numbers = cluster.hosts.map(({ id }) => Number(id.split("-")[1]));
  const name = former?.id ?? `host-${Math.max(...numbers) + 1}`;
  return {
    name,
    async suffer(tell) {
      const host = former ?? (await cluster.newHost(name));
      await startAgain(host, tell);
      tell(`(pid ${host.pid}) joins for ${lastsMs} ms`);
      await sleep(lastsMs);
      const exit = await host.stop();
      if (exit.code !== 0) throw new Error(`${name} ended with ${JSON.stringify(exit)}`);
      tell("has left");
    },
  };
}

function crash(
  name: string,
  server: TestServer | undefined,
  lastsMs: number,
  busy: Set<string>,
): Victim | null {
  if (server === undefined || busy.has(name)) return null;
  return {
    name,
    async suffer(tell) {
      tell(`(pid ${server.pid}) killed for ${lastsMs} ms`);
      await server.kill();
      await sleep(lastsMs);
      await server.restart();
      tell(`is there again (pid ${server.pid})`);
    },
  };
}

function stall(
  name: string,
  server: TestServer,
  lastsMs: number,
  busy: Set<string>,
): Victim | null {
  if (busy.has(name)) return null;
  return {
    name,
    async suffer(tell) {
      const { pid } = server;
      process.kill(pid, "SIGSTOP");
      tell(`(pid ${pid}) frozen for ${lastsMs} ms`);
      try {
        await sleep(lastsMs);
      } finally {
        process.kill(pid, "SIGCONT");
      }
      tell("wakes");
    },
  };
}

const sessionsPauseMs = 150;

function endSessions(
  name: string,
  databaseUrl: string,
  lastsMs: number,
  busy: Set<string>,
): Victim | null {
  if (busy.has(name)) return null;
  return {
    name,
    async suffer(tell) {
      tell(`ends all sessions for ${lastsMs} ms`);
      const untilMs = performance.now() + lastsMs;
      do {
        await query(
          databaseUrl,
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE application_name LIKE 'coffer-%'`,
        );
        await sleep(sessionsPauseMs);
      } while (performance.now() < untilMs);
      tell("lets them be");
    },
  };
}
