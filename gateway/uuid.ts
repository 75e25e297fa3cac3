/**
 * UUIDv7s for requests, commands and what callers leave unnamed. The library asks the system for
 * randomness every few ids, which costs more than the ids; here it draws from a pool that is filled
 * for several hundred of them at once, as Node does for its own `randomUUID`. What it traded: the
 * random bits of the next ids are in memory a moment longer.
 */
import { randomFillSync } from "node:crypto";
import { V7Generator } from "uuidv7";

import { LIMITS } from "../src/limits.ts";

function buildRandomPool(): { nextUint32(): number } {
  const pool = new Uint32Array(LIMITS.randomWords);
  let taken = pool.length;
  return {
    nextUint32() {
      if (taken === pool.length) {
        randomFillSync(pool);
        taken = 0;
      }
      return pool[taken++]!;
    },
  };
}

const generator = new V7Generator(buildRandomPool());

/** A new UUIDv7; those of one process ascend, unless its clock goes back by more than 10 s. */
export function uuidv7(): string {
  return generator.generate().toString();
}
