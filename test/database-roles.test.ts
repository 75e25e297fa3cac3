/**
 * Two roles, as docs/operations.md gives them: one that owns the schema and migrates, and one that
 * serves and can neither change the schema nor switch off what guards the books.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, inject, it, onTestFinished } from "vitest";
import { packageRoot } from "../src/package-root.ts";
import { migrateDown, migrateUp } from "../src/postgres/migrate.ts";
import { runCoffer, startCoffer } from "./stage/process.ts";
import { createDatabase, dropDatabase, onServer } from "./stage/servers.ts";

const NAME = "database_roles";
const OWNER = "roles_owner";
const APP = "roles_app";

let ownerUrl: string;
let appUrl: string;

beforeAll(async () => {
  const server = inject("postgresUrl");
  // Of a run that was cut off: its roles could not go before it
  await onServer(server, `DROP DATABASE IF EXISTS ${NAME} WITH (FORCE)`);
  for (const role of [OWNER, APP]) {
    await onServer(server, `DROP ROLE IF EXISTS ${role}`);
    await onServer(server, `CREATE ROLE ${role} LOGIN PASSWORD 'pass'`);
  }
});

beforeEach(async () => {
  const url = await createDatabase(inject("postgresUrl"), NAME, `OWNER ${OWNER}`);
  ownerUrl = as(OWNER, url);
  appUrl = as(APP, url);
  await migrateUp(ownerUrl);
  // What the document says, to the letter
  const text = readFileSync(join(packageRoot, "docs", "operations.md"), "utf8");
  const lines = text.match(/^ {4}(ALTER DEFAULT|GRANT|REVOKE) .*;$/gm) ?? [];
  expect(lines.length).toBeGreaterThan(0);
  const sql = lines.join("\n").replaceAll("schema_user", APP).replaceAll("schema_owner", OWNER);
  await onServer(ownerUrl, sql);
});

afterAll(async () => {
  await dropDatabase(inject("postgresUrl"), NAME);
});

function as(role: string, url: string): string {
  const changed = new URL(url);
  changed.username = role;
  changed.password = "pass";
  return changed.href;
}

const HOOK = "https://example.com/hook";

it("serves everything with a role that owns nothing, and the books agree", async () => {
  // Given a Coffer under the smaller role
  const coffer = await startCoffer({ DATABASE_URL: appUrl, LOG_LEVEL: "warn" });
  onTestFinished(async () => void (await coffer.kill()));
  await coffer.untilReady();
  const post = async (path: string, body: object): Promise<unknown> => {
    const response = await fetch(`${coffer.baseUrl}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    expect(`${path} ${response.status}: ${await response.clone().text()}`).toMatch(/ 20[01]: /);
    return await response.json();
  };

  // When all kinds of rows are written
  await post("/wallets", { walletId: "a", currency: "USD", initialBalance: 100 });
  await post("/wallets", { walletId: "b", currency: "USD" });
  await post("/wallets/a/transfer", { toWalletId: "b", amount: 10 });
  const hold = (await post("/wallets/a/holds", { amount: 5 })) as { id: string };
  await post(`/wallets/a/holds/${hold.id}/capture`, { amount: 1, toWalletId: "b" });
  await post("/assets", { code: "COINS", name: "Coins", decimalPlaces: 0 });
  const { id } = (await post("/webhooks", { url: HOOK })) as { id: string };
  const removed = await fetch(`${coffer.baseUrl}/webhooks/${id}`, { method: "DELETE" });
  expect(removed.status).toBe(204);
  const trial = await fetch(`${coffer.baseUrl}/ledger/trial-balance`);
  expect(await trial.json()).toMatchObject({ currencies: [{ isBalanced: true }] });

  // Then nobody missed a permission, and verify, under this role too, finds nothing
  expect(await coffer.stop()).toEqual({ code: 0, signal: null });
  expect(coffer.output).not.toContain("42501");
  expect(coffer.output).not.toContain("permission denied");
  const env = { ...process.env, DATABASE_URL: appUrl };
  const verify = join(packageRoot, "dist", "src", "verify-cli.js");
  // A test that is blocked is out of reach of its own time limit.
  const options = { env, encoding: "utf8", timeout: 25_000 } as const;
  const { status, stdout } = spawnSync("node", [verify], options);
  expect(stdout).toContain("no difference");
  expect(status).toBe(0);
});

it("says what to do where that role meets an older schema", async () => {
  await migrateDown(ownerUrl, 1);
  const { code, output } = await runCoffer({ DATABASE_URL: appUrl });
  expect(code).toBe(1);
  expect(output).toMatch(/\(DATABASE_URL\) cannot be used: .*(permission denied|must be owner)/);
  expect(output).not.toContain("nobody expected");
  await migrateUp(ownerUrl);
  const coffer = await startCoffer({ DATABASE_URL: appUrl });
  onTestFinished(async () => void (await coffer.kill()));
  await coffer.untilReady();
  expect((await coffer.stop()).code).toBe(0);
});

it.each(["UPDATE events SET amount = 1", "DELETE FROM events", "TRUNCATE events"])(
  "that role cannot do: %s",
  async (sql) => {
    await expect(onServer(appUrl, sql)).rejects.toThrow(/permission denied/);
  },
);
