/**
 * What crosses from one simulated thread, process or server to another is copied on its way, as
 * there: nothing that one of them does to it afterwards is seen by the other. `structuredClone`
 * does the same by writing everything out and reading it in again, at several times the cost, and a
 * run copies tens of thousands of messages. This one takes plain data only, a tree of objects,
 * arrays, maps and sets; what `structuredClone` would refuse, and what it would change without a
 * word (an instance of a class), is refused here.
 */

/**
 * A copy that shares nothing with what is given; throws a `TypeError` for what is not plain data.
 */
export function copied<T>(given: T): T {
  return copyOfAny(given) as T;
}

function copyOfAny(given: unknown): unknown {
  if (typeof given === "object" && given !== null) return copyOfObject(given);
  if (typeof given === "function" || typeof given === "symbol") throw notPlain(given);
  return given;
}

function copyOfObject(given: object): object {
  const prototype: unknown = Object.getPrototypeOf(given);
  if (prototype === Object.prototype) return copyOfFields(given as Record<string, unknown>);
  if (prototype === Array.prototype) return copyOfItems(given as readonly unknown[]);
  if (prototype === Map.prototype) {
    const copy = new Map<unknown, unknown>();
    for (const [key, value] of given as ReadonlyMap<unknown, unknown>) {
      copy.set(copyOfAny(key), copyOfAny(value));
    }
    return copy;
  }
  if (prototype === Set.prototype) {
    const copy = new Set<unknown>();
    for (const value of given as ReadonlySet<unknown>) copy.add(copyOfAny(value));
    return copy;
  }
  throw notPlain(given);
}

/** Most fields are no objects: all are taken over at once, then those that are. */
function copyOfFields(given: Record<string, unknown>): object {
  const copy = { ...given };
  for (const name in copy) {
    const value = copy[name];
    if (isDeep(value)) copy[name] = copyOfAny(value);
  }
  return copy;
}

function copyOfItems(given: readonly unknown[]): unknown[] {
  const copy = given.slice();
  for (let index = 0; index < copy.length; index++) {
    const value = copy[index];
    if (isDeep(value)) copy[index] = copyOfAny(value);
  }
  return copy;
}

/** What needs a look of its own: to be copied, or to be refused. */
function isDeep(value: unknown): boolean {
  const type = typeof value;
  return (type === "object" && value !== null) || type === "function" || type === "symbol";
}

function notPlain(given: unknown): TypeError {
  const what = Object.prototype.toString.call(given);
  return new TypeError(`${what} is no plain data and cannot cross`);
}
