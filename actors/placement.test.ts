import { describe, expect, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import type { ShardOwner } from "../src/core/shard-table.ts";
import type { Member } from "./membership.ts";
import { buildLookout, movesOf, placeOf, type View } from "./placement.ts";

const hosts = (count: number): string[] => Array.from({ length: count }, (_, n) => `host-${n + 1}`);
const places = (hostIds: readonly string[]): Array<string | null> =>
  ALL_SHARDS.map((shard) => placeOf(shard, hostIds));

describe("rendezvous hashing", () => {
  it("places nothing where nobody is", () => {
    expect(placeOf(7, [])).toBeNull();
  });

  it("does not depend on the order in which hosts are named", () => {
    expect(places(hosts(5))).toEqual(places(hosts(5).toReversed()));
  });

  it.each([2, 3, 4, 5, 8])("gives each of %i hosts about its share", (count) => {
    const placed = places(hosts(count));
    for (const hostId of hosts(count)) {
      const share = placed.filter((place) => place === hostId).length;
      expect(share).toBeGreaterThan((256 / count) * 0.6);
      expect(share).toBeLessThan((256 / count) * 1.5);
    }
  });

  it.each([1, 2, 3, 4, 7])("moves shards only to the host that joins %i others", (count) => {
    const before = places(hosts(count));
    const after = places(hosts(count + 1));
    const moved = ALL_SHARDS.filter((shard) => before[shard] !== after[shard]);
    expect(new Set(moved.map((shard) => after[shard]))).toEqual(new Set([`host-${count + 1}`]));
    expect(moved.length).toBeLessThan((256 / (count + 1)) * 1.5);
  });
});

const memberOf = (hostId: string, rest: Partial<Member> = {}): Member => ({
  hostId,
  owner: `${hostId}:1`,
  startedAtMs: 0,
  isLeaving: false,
  ...rest,
});

const a = memberOf("a");
const b = memberOf("b");

/** Looks every `placementMs` from 0 on and shows the last view. */
function watch(
  of: Member,
  looks: ReadonlyArray<[untilMs: number, seen: readonly Member[] | null]>,
) {
  const lookout = buildLookout(of);
  let view: View | null = null;
  let nowMs = 0;
  for (const [untilMs, seen] of looks) {
    for (; nowMs < untilMs; nowMs += LIMITS.placementMs) view = lookout.observe(seen, nowMs);
  }
  return view;
}

const trustedMs = LIMITS.redisSettleMs + LIMITS.placementMs;

describe("the lookout", () => {
  it.each([
    ["while nothing can be read", null],
    ["of somebody who does not know this host", [b]],
    ["of somebody who knows nobody", []],
  ])("has no view %s", (_, seen) => {
    expect(watch(a, [[trustedMs, seen]])).toBeNull();
  });

  it("does not trust a view before everybody had time to be heard", () => {
    expect(watch(a, [[LIMITS.redisSettleMs, [a, b]]])?.isTrusted).toBe(false);
    expect(watch(a, [[trustedMs, [a, b]]])?.isTrusted).toBe(true);
  });

  it("trusts nobody's death soon after Redis was away or emptied", () => {
    for (const gap of [null, [], [b]]) {
      const view = watch(a, [
        [trustedMs, [a, b]],
        [trustedMs + LIMITS.placementMs, gap],
        [trustedMs * 2, [a]],
      ]);
      expect(view?.isTrusted).toBe(false);
      expect(view?.alive.has(b.owner)).toBe(true);
    }
  });

  it("counts a host as gone only after it was missed for a while", () => {
    const missedForMs = (ms: number) =>
      watch(a, [
        [trustedMs, [a, b]],
        [trustedMs + ms, [a]],
      ])!;
    expect(missedForMs(LIMITS.absenceMs).alive.has(b.owner)).toBe(true);
    expect(missedForMs(LIMITS.absenceMs + LIMITS.placementMs).alive.has(b.owner)).toBe(false);
  });

  it("gives a host that joins what is free at once, and what others have once it has settled", () => {
    const joinedForMs = (ms: number) =>
      watch(a, [
        [trustedMs, [a]],
        [trustedMs + ms, [a, b]],
      ])!;
    expect([...joinedForMs(LIMITS.placementMs).present]).toEqual(["a", "b"]);
    expect([...joinedForMs(LIMITS.placementMs).settled]).toEqual(["a"]);
    const settledMs = LIMITS.joinSettleMs + LIMITS.placementMs;
    expect([...joinedForMs(settledMs).settled]).toEqual(["a", "b"]);
  });

  it("begins anew with a host that was gone and came back", () => {
    const view = watch(a, [
      [trustedMs * 2, [a, b]],
      [trustedMs * 3, [a]],
      [trustedMs * 3 + LIMITS.placementMs, [a, b]],
    ])!;
    expect([...view.settled]).toEqual(["a"]);
  });

  it("takes the next run of a host for the same host, and its last run for gone", () => {
    const next = memberOf("b", { owner: "b:2", startedAtMs: 5 });
    const view = watch(a, [
      [trustedMs * 2, [a, b]],
      [trustedMs * 2 + LIMITS.placementMs, [a, b, next]],
    ])!;
    expect([...view.settled]).toEqual(["a", "b"]);
    expect([...view.alive]).toEqual(["a:1", "b:2"]);
  });

  it("gives a host that leaves nothing more, and takes nothing from it", () => {
    const view = watch(a, [
      [trustedMs * 2, [a, b]],
      [trustedMs * 2 + LIMITS.placementMs, [a, { ...b, isLeaving: true }]],
    ])!;
    expect([...view.present]).toEqual(["a"]);
    expect(view.alive.has(b.owner)).toBe(true);
  });

  it("says when a younger run has this host's id", () => {
    const twin = memberOf("a", { owner: "a:2", startedAtMs: 1 });
    expect(watch(a, [[trustedMs, [a, twin]]])?.isSuperseded).toBe(true);
    expect(watch(twin, [[trustedMs, [a, twin]]])?.isSuperseded).toBe(false);
  });
});

describe("moves", () => {
  const view = (rest: Partial<View> = {}): View => ({
    isTrusted: true,
    isSuperseded: false,
    alive: new Set(["a:1", "b:1"]),
    present: new Set(["a", "b"]),
    settled: new Set(["a", "b"]),
    owners: new Map([
      ["a", "a:1"],
      ["b", "b:1"],
    ]),
    ...rest,
  });
  const table = (owner: string | null): ShardOwner[] =>
    ALL_SHARDS.map((shard) => ({ shard, owner, epoch: 1, claimedAtMs: 0 }));
  const own = ALL_SHARDS.filter((shard) => placeOf(shard, ["a", "b"]) === "a");
  const others = ALL_SHARDS.filter((shard) => !own.includes(shard));
  const moves = (its: View | null, owner: string | null, self: Member = a) => {
    const { take, give } = movesOf(self, its, table(owner));
    return { take: [...take.keys()], give: [...give.keys()] };
  };

  it.each<[string, View | null, string | null, Member, { take: number[]; give: number[] }]>([
    ["takes its part of what is free", view(), null, a, { take: own, give: [] }],
    ["takes its part from an owner that is gone", view(), "c:1", a, { take: own, give: [] }],
    ["takes nothing from an owner that lives", view(), "b:1", a, { take: [], give: [] }],
    ["hands over what others should have", view(), "a:1", a, { take: [], give: others }],
    [
      "keeps it from one that has not settled",
      view({ settled: new Set(["a"]) }),
      "a:1",
      a,
      { take: [], give: [] },
    ],
    [
      "takes what is free without trust",
      view({ isTrusted: false }),
      null,
      a,
      { take: own, give: [] },
    ],
    [
      "takes from nobody without trust",
      view({ isTrusted: false }),
      "c:1",
      a,
      { take: [], give: [] },
    ],
    [
      "hands over nothing without trust",
      view({ isTrusted: false }),
      "a:1",
      a,
      { take: [], give: [] },
    ],
    ["takes nothing without a view", null, null, a, { take: [], give: [] }],
    ["hands over nothing without a view", null, "a:1", a, { take: [], give: [] }],
    [
      "hands over everything when it leaves",
      view(),
      "a:1",
      { ...a, isLeaving: true },
      { take: [], give: [...ALL_SHARDS] },
    ],
    [
      "does so without a view, too",
      null,
      "a:1",
      { ...a, isLeaving: true },
      { take: [], give: [...ALL_SHARDS] },
    ],
    [
      "takes nothing when it leaves",
      view(),
      null,
      { ...a, isLeaving: true },
      { take: [], give: [] },
    ],
    [
      "gives way to a younger run",
      view({ isSuperseded: true }),
      "a:1",
      a,
      { take: [], give: [...ALL_SHARDS] },
    ],
  ])("a host %s", (_, its, owner, self, expected) => {
    expect(moves(its, owner, self)).toEqual(expected);
  });

  it("are meant for the owner that should have the shard", () => {
    const { give } = movesOf(a, view(), table("a:1"));
    expect(new Set(give.values())).toEqual(new Set(["b:1"]));
  });

  it("of a host that leaves are never meant for itself, and for nobody before it trusts its view", () => {
    const leaving = { ...a, isLeaving: true };
    const heirs = (its: View) => new Set(movesOf(leaving, its, table("a:1")).give.values());
    expect(heirs(view())).toEqual(new Set(["b:1"]));
    expect(heirs(view({ isTrusted: false }))).toEqual(new Set([null]));
    expect(heirs(view({ settled: new Set(["a"]) }))).toEqual(new Set([null]));
  });

  it("of a host that gives way are meant for the younger run, also without trust", () => {
    const owners = new Map([["a", "a:2"]]);
    const its = view({ isTrusted: false, isSuperseded: true, owners });
    expect(new Set(movesOf(a, its, table("a:1")).give.values())).toEqual(new Set(["a:2"]));
  });
});
