/**
 * The thread of a lane: the entry that Piscina loads. It gives the lane its real parts (PostgreSQL,
 * the clock, the way out) and turns any broken invariant into the end of the thread; Piscina brings
 * a new one, which claims the shards afresh. Only where the database has lost commits does it ask
 * for the end of the process. Nothing here is shared with the main thread but messages, and with
 * other lanes but how far each shard has got (docs/adr/0012).
 */
import "../src/navigator.ts";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { parentPort, workerData } from "node:worker_threads";
import { nowMs, wallMs } from "../src/clock.ts";
import { HistoryLostError } from "../src/core/journal.ts";
import { buildPostgresJournal } from "../src/postgres/journal.ts";
import { takeWarnings } from "../src/warnings.ts";
import { buildLane, type LaneStats } from "./lane.ts";
import { buildLaneMeter } from "./lane-meter.ts";
import {
  packNotice,
  packResult,
  unpackTask,
  type PackedResult,
  type PackedTask,
} from "./lane-packing.ts";
import { stamped, type LaneNotice, type LaneResult, type LaneTask } from "./lane-thread.ts";
import type { LaneWorkerData } from "./piscina-lanes.ts";

const { databaseUrl, positions, owner, shortcut } = workerData as LaneWorkerData;
const meter = buildLaneMeter(buildPostgresJournal(databaseUrl, positions));
const { journal } = meter;

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;
let actorsAtMost = 0;

/** An idle thread allocates nothing, so V8 never collects what passivated actors leave behind. */
function collectAfterPassivation({ actors }: LaneStats): void {
  actorsAtMost = Math.max(actorsAtMost, actors);
  if (actorsAtMost < 1_000 || actors > 0) return;
  actorsAtMost = 0;
  collectGarbage();
}

function notify(notice: LaneNotice): void {
  parentPort?.postMessage(packNotice(notice));
}

function crash(error: unknown): never {
  // Another thread would go on well, but relay and feeds remember what is gone, too.
  if (error instanceof HistoryLostError) notify({ type: "fatal", reason: error.message });
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  notify({ type: "log", level: "fatal", text });
  process.exit(1);
}

takeWarnings((text) => notify({ type: "log", level: "warn", text }));

const lane = buildLane({
  journal,
  owner,
  shortcut,
  emit: (effects) => notify({ type: "effects", effects }),
  log: (level, text) => notify({ type: "log", level, text }),
  crash,
});

export default async function run(packed: PackedTask): Promise<PackedResult> {
  return packResult(await carryOut(unpackTask(packed)));
}

async function carryOut(task: LaneTask): Promise<LaneResult> {
  try {
    switch (task.type) {
      case "batch": {
        meter.arrived(task.arrivals);
        const effects = await lane.receive(stamped(task.arrivals), nowMs(), wallMs());
        meter.dealt(task.arrivals);
        return { effects, stats: null };
      }
      case "tick": {
        const effects = lane.tick(nowMs(), task.shards, wallMs());
        const stats = lane.stats();
        collectAfterPassivation(stats);
        return { effects, stats, measures: meter.take() };
      }
      case "stop":
        await journal.close();
        return { effects: null, stats: null, measures: meter.take() };
      default:
        return task satisfies never;
    }
  } catch (error) {
    return crash(error);
  }
}
