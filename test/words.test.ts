/**
 * The two ways to tell whether a wallet has the words of a text: `wallet_words` and `words_query`,
 * which the index has, and `wallet_has_words`, by which a walk tests wallet after wallet. They must
 * never differ, whatever is in ids, metadata and texts.
 */
import fc from "fast-check";
import pg from "pg";
import { afterAll, beforeAll, expect, inject, it } from "vitest";

import { migrateUp } from "../src/postgres/migrate.ts";
import { createDatabase, dropDatabase } from "./stage/servers.ts";

/** By the second one a letter may become another small one at the end of a word. */
const LOCALES = ["C.UTF-8", "PG_UNICODE_FAST"];
const databases: pg.Client[] = [];

beforeAll(async () => {
  for (const [nth, locale] of LOCALES.entries()) {
    const options = `TEMPLATE template0 LOCALE_PROVIDER builtin BUILTIN_LOCALE '${locale}'`;
    const url = await createDatabase(inject("postgresUrl"), `words_${nth}`, options);
    await migrateUp(url);
    const database = new pg.Client({ connectionString: url });
    databases.push(database);
    await database.connect();
  }
}, 60_000);

afterAll(async () => {
  for (const [nth, database] of databases.entries()) {
    await database.end();
    await dropDatabase(inject("postgresUrl"), `words_${nth}`);
  }
});

/**
 * What may part words, look like JSON's own signs, change with its surroundings when it becomes
 * small, or be long.
 */
const PIECES = [
  ...Array.from("aAbn7_%.'\"\\/{}[]:;,-^$*+?()|é Åİßσςõ日😀"),
  ...Array.from("ΟΔΣ"),
  "ΛΟΣ",
  "ΛΟΣΟ",
  "οσ",
  "\n",
  "\t",
  "\b",
  "\u0001",
  "\u001f",
  "\u007f",
  "ab",
  "gold",
  "u001f",
  "\\n",
  "x".repeat(63),
  "y".repeat(65),
];
const said = fc
  .array(fc.constantFrom(...PIECES), { maxLength: 8 })
  .map((pieces) => pieces.join(""));
const metadata = fc.dictionary(
  said.filter((key) => key !== "__proto__"),
  fc.oneof(
    said,
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.boolean(),
    fc.constant(null),
    fc.array(said, { maxLength: 3 }),
    fc.dictionary(
      said.filter((key) => key !== "__proto__"),
      said,
      { maxKeys: 2 },
    ),
  ),
  { maxKeys: 4 },
);
const id = fc.string({
  unit: fc.constantFrom(...Array.from("aAbn7_.:@-")),
  minLength: 1,
  maxLength: 12,
});

interface Case {
  readonly id: string;
  readonly owner: string | null;
  readonly metadata: Record<string, unknown>;
  readonly text: string;
}

const cases = fc.record({ id, owner: fc.option(id), metadata, text: said }).map((one): Case => one);

/** A text that is taken from what the wallet says, so that many are found. */
const found = fc
  .record({
    id,
    owner: fc.option(id),
    metadata,
    from: fc.nat(20),
    length: fc.integer({ min: 1, max: 6 }),
  })
  .map(({ from, length, ...rest }): Case => {
    const strings = [
      rest.id,
      ...Object.values(rest.metadata).filter((it) => typeof it === "string"),
    ];
    const whole = Array.from(strings.join(" "));
    const start = from % whole.length;
    return { ...rest, text: whole.slice(start, start + length).join("") };
  });

it.each([
  [LOCALES[0], 0],
  [LOCALES[1], 1],
])(
  "a wallet has a text's words by one way when by the other, in %s",
  async (_, nth) => {
    let positives = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(cases, found), { minLength: 40, maxLength: 80 }),
        async (list) => {
          const { rows } = await databases[nth]!.query<Case & { slow: boolean; quick: boolean }>(
            `SELECT c.*, slow, wallet_has_words(c.id, c.owner, c.metadata, c.text) AS quick
         FROM json_to_recordset($1) c(id text, owner text, metadata jsonb, text text)
         CROSS JOIN LATERAL (SELECT wallet_words(c.id, c.owner, c.metadata) @@ words_query(c.text) AS slow) s
         WHERE words_query(c.text) IS NOT NULL`,
            [JSON.stringify(list)],
          );
          positives += rows.filter(({ slow }) => slow).length;
          expect(rows.filter(({ slow, quick }) => slow !== quick)).toEqual([]);
        },
      ),
      { numRuns: 60 },
    );
    expect(positives).toBeGreaterThan(100);
  },
  60_000,
);

it.each([
  ["a line's end before a word", { a: "\nfoo" }, "foo", true],
  ["a backslash and a letter", { a: "\\nfoo" }, "foo", false],
  ["a backslash and a letter, as they are", { a: "\\nfoo" }, "nfoo", true],
  ["a key", { foo: "bar" }, "foo", false],
  ["a deep value", { a: [{ b: ["Foo-Bar"] }] }, "bar foo", true],
  ["the middle of a word", { a: "seafood" }, "foo", false],
  ["a short word's beginning", { a: "goal" }, "go", false],
  ["a sigma that ends a word", { a: "ΛΟΓΟΣ ΛΟΓΟΣΟ" }, "ΛΟΓΟΣ", true],
  ["a sigma that ends the text, and not the word", { a: "ΛΟΓΟΣΟ" }, "ΛΟΓΟΣ", false],
  ["a sigma behind a line's end", { a: "\nΣ" }, "Σ", true],
  ["a flag", { a: true }, "true", false],
  ["a number", { a: 1234 }, "123", true],
])("finds by %s as the index does", async (_, metadata, text, expected) => {
  const { rows } = await databases[1]!.query<{ slow: boolean; quick: boolean }>(
    `SELECT wallet_words('w', NULL, $1::jsonb) @@ words_query($2) AS slow,
            wallet_has_words('w', NULL, $1::jsonb, $2) AS quick`,
    [JSON.stringify(metadata), text],
  );
  expect(rows[0]).toEqual({ slow: expected, quick: expected });
});
