/**
 * A map for what passes through: thousands of values come and go each second, a few hundred are
 * there at a time. A `Map` with such a life gets a new table from V8 every few hundred values, and
 * each table still names what was there when it was left, and the table after it. Once one of them
 * has become old, a collection of the young generation takes all of that for alive: requests that
 * were answered long ago, with everything they hang on, are copied twice and then wait for a full
 * collection (docs/adr/0013). So here the `Map` has keys and places only, and the values lie in one
 * array, whose places are emptied and used again; it stays as long as the most that there was.
 */
export interface TransitMap<Key, Value> {
  readonly size: number;
  get(key: Key): Value | undefined;
  has(key: Key): boolean;
  /** Puts it in the place of what the key had, or at the end. */
  set(key: Key, value: Value): void;
  /** Whether there was one. */
  delete(key: Key): boolean;
  /** As they came; what is taken out meanwhile is left out, what is put in is met. */
  [Symbol.iterator](): Generator<[Key, Value]>;
}

export function buildTransitMap<Key, Value>(): TransitMap<Key, Value> {
  const places = new Map<Key, number>();
  const values: (Value | undefined)[] = [];
  const free: number[] = [];

  return {
    get size() {
      return places.size;
    },
    get(key) {
      const place = places.get(key);
      return place === undefined ? undefined : values[place];
    },
    has: (key) => places.has(key),
    set(key, value) {
      let place = places.get(key);
      if (place === undefined) {
        place = free.pop() ?? values.length;
        places.set(key, place);
      }
      values[place] = value;
    },
    delete(key) {
      const place = places.get(key);
      if (place === undefined) return false;
      places.delete(key);
      values[place] = undefined;
      free.push(place);
      return true;
    },
    *[Symbol.iterator]() {
      for (const [key, place] of places) yield [key, values[place]!];
    },
  };
}
