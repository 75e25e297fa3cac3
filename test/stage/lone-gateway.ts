/** What a gateway is made from when nobody stands behind it: no host, and no database. */
import { pino } from "pino";

import { buildAnswers } from "../../gateway/answers.ts";
import { buildBatches } from "../../gateway/batch.ts";
import { buildCommandIntake } from "../../gateway/command-intake.ts";
import { buildCommandDesk } from "../../gateway/commands.ts";
import type { GatewayOptions } from "../../gateway/http.ts";
import { buildMemoryBus } from "../../src/bus/memory-bus.ts";
import { buildPostgresAssets } from "../../src/postgres/assets.ts";
import { buildPostgresReadModel } from "../../src/postgres/read-model.ts";

export function loneGatewayOptions(): { options: GatewayOptions; close(): Promise<void> } {
  const bus = buildMemoryBus();
  const commands = buildCommandDesk({ bus, gatewayId: "test" });
  /** Nothing listens there. */
  const databaseUrls = ["postgres://nobody@127.0.0.1:1/none"];
  const readModel = buildPostgresReadModel({ databaseUrls });
  const assets = buildPostgresAssets({ databaseUrls });
  const log = pino({ level: "silent" });
  const takeIn = buildCommandIntake((code) => assets.assetOf(code));
  const answer = buildAnswers({ readModel, log });
  const batches = buildBatches({ commands, takeIn, answer, log });
  const version = "1.2.3";
  return {
    options: { bus, commands, takeIn, answer, batches, readModel, assets, version, log },
    async close() {
      await commands.drain();
      await readModel.close();
      await assets.close();
    },
  };
}
