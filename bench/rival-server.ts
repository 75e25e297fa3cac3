/**
 * One rival as a process of its own, so that it has a whole event loop to itself like Coffer. It is
 * started with one JSON argument, seeds what it needs, listens on a free port and prints one line
 * of JSON when it is ready. It ends on SIGTERM, and with the benchmark (`end-with-parent.ts`).
 */
import "./end-with-parent.ts";
import { INITIAL_BALANCE, allWallets } from "./shapes.ts";
import { buildEmptyRival, buildRowlockRival, seedRowlockRival } from "./rivals.ts";

export type RivalPlan =
  | { rival: "empty" }
  | { rival: "rowlock"; databaseUrl: string; poolSize: number };

/** The line a rival prints when it takes requests. */
export interface RivalReady {
  ready: true;
  port: number;
}

async function build(plan: RivalPlan) {
  if (plan.rival === "empty") return buildEmptyRival();
  await seedRowlockRival(plan.databaseUrl, allWallets(), INITIAL_BALANCE * 100);
  return buildRowlockRival(plan.databaseUrl, plan.poolSize);
}

const argument = process.argv[2];
if (argument === undefined) throw new Error("a rival is started by the benchmark, with its plan");
const app = await build(JSON.parse(argument) as RivalPlan);

function stop(): void {
  void app.close().finally(() => process.exit(0));
  setTimeout(() => process.exit(0), 2_000).unref();
}
process.once("SIGTERM", stop);

await app.listen({ host: "127.0.0.1", port: 0 });
const address = app.server.address();
if (address === null || typeof address === "string") throw new Error("no TCP address");
const ready: RivalReady = { ready: true, port: address.port };
console.log(JSON.stringify(ready));
