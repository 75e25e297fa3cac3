import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { NODE_NEEDED, nodeTrouble } from "./node-version.ts";
import { packageRoot } from "./package-root.ts";

it("asks for what package.json asks for", () => {
  const { engines } = JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8"));
  expect(engines).toEqual({ node: `>=${NODE_NEEDED}` });
});

it.each([
  ["16.20.2", true],
  ["18.20.8", true],
  ["20.18.3", true],
  ["20.19.0", false],
  ["20.20.2", false],
  ["22.0.0", false],
  ["26.10.0", false],
])("%s is too old: %s", (version, isTooOld) => {
  const told = `Coffer needs Node ${NODE_NEEDED} or later, and this is ${version}`;
  expect(nodeTrouble(version)).toBe(isTooOld ? told : null);
});
