/**
 * One spelling for equal objects, in the order of PostgreSQL's jsonb; and the merge patch of RFC
 * 7396, by its own examples.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { LIMITS } from "../limits.ts";
import { canonicalMetadata, mergedMetadata, metadataBytes } from "./metadata.ts";

const objects = fc.dictionary(
  fc.string({ unit: "grapheme" }).filter((name) => name !== "__proto__"),
  fc.jsonValue({ maxDepth: 4 }),
);

function canonical(metadata: object): string {
  const given = canonicalMetadata({ ...metadata });
  if (!given.ok) throw new Error(given.problem);
  return given.text;
}

describe("the canonical text", () => {
  it("is one for equal objects, with keys as PostgreSQL's jsonb orders them", () => {
    const metadata = { bb: 1, a: { d: [1, { z: 1, y: null }], c: "ü" }, ü: true, z: "" };
    expect(canonicalMetadata(metadata)).toEqual({
      ok: true,
      text: '{"a":{"c":"ü","d":[1,{"y":null,"z":1}]},"z":"","bb":1,"ü":true}',
    });
  });

  it("means the same as JSON.stringify says", () => {
    fc.assert(
      fc.property(objects, (metadata) => {
        const given = canonicalMetadata(metadata);
        if (!given.ok) return;
        expect(JSON.parse(given.text)).toEqual(JSON.parse(JSON.stringify(metadata)));
      }),
    );
  });

  it("orders keys by the bytes of their UTF-8, beyond U+FFFF too", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.string({ unit: "binary" }), { maxLength: 30 }), (names) => {
        const kept = names.filter(
          (name) => name !== "__proto__" && !/[\0\p{Surrogate}]/u.test(name) && !/^\d+$/.test(name),
        );
        const metadata = Object.fromEntries(kept.map((name) => [name, 0] as const));
        const given = Object.keys(JSON.parse(canonical(metadata)) as object);
        const wanted = kept.toSorted(
          (one, other) =>
            Buffer.byteLength(one) - Buffer.byteLength(other) ||
            Buffer.compare(Buffer.from(one), Buffer.from(other)),
        );
        expect(given).toEqual(wanted);
      }),
    );
  });

  it.each([
    ["a list", { a: Array.from({ length: 4_000_000 }, () => 1) }],
    ["an object", Object.fromEntries(Array.from({ length: 200_000 }, (_, at) => [`k${at}`, at]))],
  ])("is not written to its end of %s that is far too large", (_name, metadata) => {
    const { user } = process.cpuUsage();
    expect(canonicalMetadata(metadata)).toEqual({
      ok: false,
      problem: `must not exceed ${LIMITS.metadataBytesMax} bytes as JSON`,
    });
    expect(process.cpuUsage().user - user).toBeLessThan(250_000);
  });

  it("is measured in bytes of UTF-8", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (text) => {
        expect(metadataBytes(text)).toBe(Buffer.byteLength(text));
      }),
    );
    const full = { a: "x".repeat(LIMITS.metadataBytesMax - '{"a":""}'.length) };
    expect(canonicalMetadata(full).ok).toBe(true);
    expect(canonicalMetadata({ a: `${full.a}x` }).ok).toBe(false);
  });

  it.each([
    ["NUL", { a: "\0" }],
    ["NUL in a key", { "\0": 1 }],
    ["half a surrogate pair", { a: ["\udc00"] }],
    ["Infinity", JSON.parse('{"a":1e999}') as Record<string, unknown>],
    ["__proto__", JSON.parse('{"a":{"__proto__":1}}') as Record<string, unknown>],
    ["too many bytes", { a: "ü".repeat(LIMITS.metadataBytesMax / 2) }],
    ["too many levels", JSON.parse(`${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`) as object],
  ])("is refused to what contains %s", (_name, metadata) => {
    expect(canonicalMetadata({ ...metadata })).toMatchObject({
      ok: false,
      problem: expect.stringMatching(/^must not /) as unknown,
    });
  });
});

describe("what is far too large", () => {
  it.each<[string, (members: object[]) => object]>([
    ["in an object", (members) => Object.fromEntries(members.entries())],
    ["in a list", (members) => ({ list: members })],
    ["in lists of lists", (members) => ({ list: members.map((member) => [[member]]) })],
  ])("%s is not written to its end, since everybody waits for that", (_how, arrange) => {
    let written = 0;
    const members = Array.from({ length: 50_000 }, () => ({
      get a() {
        written += 1;
        return "";
      },
    }));
    expect(canonicalMetadata({ ...arrange(members) })).toEqual({
      ok: false,
      problem: `must not exceed ${LIMITS.metadataBytesMax} bytes as JSON`,
    });
    expect(written).toBeLessThan(LIMITS.metadataBytesMax);
  });

  it("is told from what just fits, whatever it is made of", () => {
    fc.assert(
      fc.property(objects, fc.nat(LIMITS.metadataBytesMax * 2), (metadata, length) => {
        const { padding: _, ...rest } = metadata;
        const whole = { ...rest, padding: "x".repeat(length) };
        const { ok } = canonicalMetadata(rest);
        const isFitting = Buffer.byteLength(JSON.stringify(whole)) <= LIMITS.metadataBytesMax;
        expect(canonicalMetadata(whole).ok).toBe(ok && isFitting);
      }),
    );
  });

  it.each([
    ["empty lists", []],
    ["empty objects", {}],
    ["empty texts", ""],
    ["digits", 1],
    ["nulls", null],
  ])("is told from what just fits in a list of %s", (_what, item) => {
    const bytes = JSON.stringify(item).length + 1;
    const room = LIMITS.metadataBytesMax - '{"a":[]}'.length + 1;
    const items = Array.from({ length: Math.floor(room / bytes) }, () => item);
    expect(canonicalMetadata({ a: items }).ok).toBe(true);
    expect(canonicalMetadata({ a: [...items, item] }).ok).toBe(false);
  });
});

describe("a merge patch", () => {
  // RFC 7396, appendix A, those between objects; the last two are ours.
  it.each<[target: string, patch: string, result: string]>([
    ['{"a":"b"}', '{"a":"c"}', '{"a":"c"}'],
    ['{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'],
    ['{"a":"b"}', '{"a":null}', "{}"],
    ['{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'],
    ['{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'],
    ['{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'],
    ['{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'],
    ['{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'],
    ['{"e":null}', '{"a":1}', '{"a":1,"e":null}'],
    ["{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'],
    ['{"bb": 1, "ü": 2}', '{"a":0}', '{"a":0,"bb":1,"ü":2}'],
    [
      '{"constructor":1}',
      '{"toString":{"valueOf":2}}',
      '{"toString":{"valueOf":2},"constructor":1}',
    ],
  ])("on %s of %s gives %s", (target, patch, result) => {
    expect(mergedMetadata(target, patch)).toBe(result);
  });

  it("gives canonical text, changes nothing when it comes again, and nothing when it is empty", () => {
    fc.assert(
      fc.property(objects, objects, (target, patch) => {
        const [one, two] = [canonicalMetadata(target), canonicalMetadata(patch)];
        if (!one.ok || !two.ok) return;
        const merged = mergedMetadata(one.text, two.text);
        expect(merged).toBe(canonical(JSON.parse(merged) as object));
        expect(mergedMetadata(merged, two.text)).toBe(merged);
        expect(mergedMetadata(one.text, "{}")).toBe(one.text);
      }),
    );
  });
});
