/**
 * Numbers that a seed repeats. Every part of a simulated world draws from a stream of its own, so
 * that a change in one part does not change what the others draw. Not for anything that must be
 * hard to guess.
 */
export interface Random {
  /** In [0, 1). */
  next(): number;
  /** A whole number in [0, bound). */
  below(bound: number): number;
  /** In [from, to). */
  between(from: number, to: number): number;
  chance(probability: number): boolean;
  pick<T>(from: readonly T[]): T;
  /** A UUID of version 4, as far as its form goes. */
  uuid(): string;
  /** Another stream; the same name gives the same stream, whatever was drawn from this one. */
  stream(name: string): Random;
}

export function randomFrom(seed: number): Random {
  const next = mulberry32(seed);
  const random: Random = {
    next,
    below: (bound) => Math.floor(next() * bound),
    between: (from, to) => from + next() * (to - from),
    chance: (probability) => next() < probability,
    pick<T>(from: readonly T[]): T {
      if (from.length === 0) throw new Error("there is nothing to pick from");
      return from[random.below(from.length)]!;
    },
    uuid() {
      const hex = (): string =>
        random
          .below(2 ** 32)
          .toString(16)
          .padStart(8, "0");
      const [a, b, c, d] = [hex(), hex(), hex(), hex()];
      const variant = "89ab"[Number.parseInt(c[0]!, 16) & 3];
      return `${a}-${b.slice(0, 4)}-4${b.slice(5)}-${variant}${c.slice(1, 4)}-${c.slice(4)}${d}`;
    },
    stream: (name) => randomFrom(mix(seed, name)),
  };
  return random;
}

/** FNV-1a of the name, begun with the seed. */
function mix(seed: number, name: string): number {
  let hash = 0x811c9dc5 ^ seed;
  for (let index = 0; index < name.length; index++) {
    hash = Math.imul(hash ^ name.charCodeAt(index), 0x01000193);
  }
  return Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d) | 0;
}

function mulberry32(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
