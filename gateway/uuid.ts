/**
 * UUIDv7s for requests, commands and what callers leave unnamed. The library asks the system for
 * randomness every few ids, which costs more than the ids; here it draws from a pool that is filled
 * for several hundred of them at once, as Node does for its own `randomUUID`. What it traded: the
 * random bits of the next ids are in memory a moment longer. The text is written in one go, too: put
 * together digit by digit, as the library does, it leaves a kilobyte of garbage for each id.
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

const DIGITS = Buffer.from("0123456789abcdef");
/** Where in the text the two digits of each byte are: 8-4-4-4-12. */
const PLACES = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34] as const;
const text = Buffer.alloc(36, "-");

/** A new UUIDv7; those of one process ascend, unless its clock goes back by more than 10 s. */
export function uuidv7(): string {
  const { bytes } = generator.generate();
  for (let index = 0; index < PLACES.length; index++) {
    const byte = bytes[index]!;
    const place = PLACES[index]!;
    text[place] = DIGITS[byte >>> 4]!;
    text[place + 1] = DIGITS[byte & 0xf]!;
  }
  return text.toString("latin1");
}
