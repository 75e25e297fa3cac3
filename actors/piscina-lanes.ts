/**
 * Lanes on threads of their own, by Piscina: one pool per lane with exactly one thread, so that
 * tasks arrive in order and none waits for another lane (docs/adr/0004). A thread that dies is
 * replaced by Piscina with an empty one; the host hears of it here, once.
 */
import { join } from "node:path";
import { Piscina } from "piscina";
import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import { packageRoot } from "../src/package-root.ts";
import { positionsMemory } from "../src/core/positions.ts";
import {
  packTask,
  unpackNotice,
  unpackResult,
  type PackedNotice,
  type PackedResult,
} from "./lane-packing.ts";
import type { LanePlan, LaneTask, LaneThread, StartLane } from "./lane-thread.ts";

/** What a lane's thread gets when it begins. */
export interface LaneWorkerData extends LanePlan {
  readonly databaseUrl: string;
  /** `positionsMemory` of that database, of all lanes of this process. */
  readonly positions: SharedArrayBuffer;
  /** `LaneDeps.shortcut`. */
  readonly shortcut: boolean;
}

export interface PiscinaLanes {
  readonly start: StartLane;
  /** So that a test can kill a thread. */
  readonly pools: readonly Piscina[];
}

export function buildPiscinaLanes(
  databaseUrls: readonly string[],
  shortcut: boolean,
): PiscinaLanes {
  const pools: Piscina[] = [];
  const memories = databaseUrls.map(positionsMemory);

  function start(...[plan, listener]: Parameters<StartLane>): LaneThread {
    const databaseUrl = databaseUrls[plan.database]!;
    const positions = memories[plan.database]!;
    const workerData: LaneWorkerData = { ...plan, databaseUrl, positions, shortcut };
    const pool = new Piscina({
      // A thread needs JavaScript, also when this file itself runs as TypeScript.
      filename: join(packageRoot, "dist", "actors", "lane-worker.js"),
      workerData,
      minThreads: 1,
      maxThreads: 1,
      concurrentTasksPerWorker: LIMITS.laneBatchesMax + 8,
      atomics: "disabled",
      recordTiming: false,
      idleTimeout: Infinity,
    });
    pools.push(pool);
    let isEnding = false;

    function lost(error: unknown): void {
      if (!isEnding) listener.lost(messageOf(error), pool.threads.length > 0);
    }

    pool.on("message", (notice: PackedNotice) => listener.notice(unpackNotice(notice)));
    pool.on("error", lost);
    return {
      async run(task: LaneTask) {
        try {
          const packed = (await pool.run(packTask(task))) as PackedResult;
          const result = unpackResult(packed);
          // Piscina's tables of tasks may lead to this object long after (docs/adr/0013).
          packed.effects = null;
          return result;
        } catch (error) {
          lost(error);
          throw error;
        }
      },
      async destroy() {
        isEnding = true;
        await pool.destroy();
      },
    };
  }

  return { start, pools };
}
