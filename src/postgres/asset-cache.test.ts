/** The cache of definitions: when it asks, whom it lets share an answer, and what it forgets. */
import { describe, expect, it } from "vitest";

import { buildDefinitionCache } from "./asset-cache.ts";

interface Definition {
  readonly code: string;
}

/** A cache over a table that the test fills, whose answers the test gives out. */
function open(bounds: { definitionsMax?: number; questionsMax?: number } = {}) {
  const table = new Map<string, Definition>();
  const questions: string[] = [];
  let isAway = false;
  const cache = buildDefinitionCache<Definition>({
    definitionsMax: 10,
    questionsMax: 10,
    ...bounds,
    onTooMany: () => new Error("too many"),
    async find(code) {
      questions.push(code);
      if (isAway) throw new Error("away");
      const found = table.get(code) ?? null;
      await Promise.resolve();
      return found;
    },
  });
  return {
    cache,
    questions,
    add: (code: string) => void table.set(code, { code }),
    goAway(away: boolean) {
      isAway = away;
    },
  };
}

describe("a definition", () => {
  it("that was found is answered at once from then on, also when nobody could be asked", async () => {
    const { cache, questions, add, goAway } = open();
    add("GOLD");
    expect(await cache.get("GOLD")).toEqual({ code: "GOLD" });
    goAway(true);
    expect(cache.get("GOLD")).toEqual({ code: "GOLD" });
    expect(questions).toEqual(["GOLD"]);
  });

  it("that was put is never asked for, and the first one stays", () => {
    const { cache, questions } = open();
    const first = { code: "GOLD" };
    cache.put("GOLD", first);
    cache.put("GOLD", { code: "GOLD" });
    expect(cache.get("GOLD")).toBe(first);
    expect(questions).toEqual([]);
  });

  it("that is not there is asked for again, since it may have come", async () => {
    const { cache, questions, add } = open();
    expect(await cache.get("GOLD")).toBeNull();
    add("GOLD");
    expect(await cache.get("GOLD")).toEqual({ code: "GOLD" });
    expect(questions).toEqual(["GOLD", "GOLD"]);
  });

  it("that could not be asked for is no answer, and is asked for again", async () => {
    const { cache, add, goAway } = open();
    add("GOLD");
    goAway(true);
    await expect(cache.get("GOLD")).rejects.toThrow("away");
    goAway(false);
    expect(await cache.get("GOLD")).toEqual({ code: "GOLD" });
  });
});

it("those who ask for one code at the same time share a question", async () => {
  const { cache, questions, add } = open();
  add("GOLD");
  const answers = await Promise.all([cache.get("GOLD"), cache.get("GOLD"), cache.get("SILVER")]);
  expect(answers).toEqual([{ code: "GOLD" }, { code: "GOLD" }, null]);
  expect(questions).toEqual(["GOLD", "SILVER"]);
});

it("who joins a question that is older than the definition still finds it", async () => {
  const { cache, questions, add } = open();
  const early = cache.get("GOLD");
  // The question has looked by now, and has not answered yet.
  add("GOLD");
  const late = cache.get("GOLD");
  expect(await late).toEqual({ code: "GOLD" });
  expect([await early, questions.length]).toEqual([null, 2]);
});

it("more questions at a time than it may have are refused, and those under way are answered", async () => {
  const { cache, add } = open({ questionsMax: 1 });
  add("GOLD");
  const first = cache.get("GOLD");
  await expect(cache.get("SILVER")).rejects.toThrow("too many");
  expect(await cache.get("GOLD")).toEqual({ code: "GOLD" });
  expect(await first).toEqual({ code: "GOLD" });
  expect(await cache.get("SILVER")).toBeNull();
});

it("past its bound what came first goes, and is asked for when it is needed", async () => {
  const { cache, questions, add } = open({ definitionsMax: 2 });
  for (const code of ["A", "B", "C"]) {
    add(code);
    cache.put(code, { code });
  }
  expect(cache.get("C")).toEqual({ code: "C" });
  expect(cache.get("B")).toEqual({ code: "B" });
  expect(await cache.get("A")).toEqual({ code: "A" });
  expect(questions).toEqual(["A"]);
});
