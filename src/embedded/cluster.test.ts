/** What is left in a data folder when no cluster could be made there. */
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { createCluster } from "./cluster.ts";

it("an initdb that fails leaves nothing behind, and its words are told", async () => {
  // Given a folder of binaries from which initdb is gone
  const dataDir = fs.mkdtempSync(join(tmpdir(), "coffer-cluster-"));
  onTestFinished(() => fs.rmSync(dataDir, { recursive: true }));
  const runtime = { bin: join(dataDir, "bin"), account: undefined, env: {} };
  // Then
  await expect(createCluster(runtime, dataDir, join(dataDir, "postgres"))).rejects.toMatchObject({
    code: "start_failed",
    message: expect.stringMatching(/^initdb could not create the database\n {2}.*ENOENT/) as string,
  });
  expect(fs.readdirSync(dataDir)).toEqual([]);
});
