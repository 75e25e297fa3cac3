/**
 * `npm run verify`: reconciles the books by hand, while hosts serve or not, and names every
 * difference; with `--rebuild` it then writes each row of `wallets` and `holds` anew that is not
 * what the events make of it. The databases are those of DATABASE_URL, or else the embedded one
 * under DATA_DIR: the one that runs there, or one that is started for the run. Exit code 0: nothing
 * is wrong; 1: differences; 2: it could not look.
 */
import { parseArgs } from "node:util";
import { exitOnSignals, startProgress, type Progress } from "./command-line.ts";
import { databaseName, readConfig } from "./config.ts";
import { counted } from "./counted.ts";
import { watchDeployment } from "./deployment.ts";
import { DIFFERENCE_KINDS, type DifferenceKind } from "./verify/differences.ts";
import { useEmbeddedPostgres } from "./embedded/embedded-postgres.ts";
import { messageOf } from "./message-of.ts";
import { LIMITS } from "./limits.ts";
import { migrationStatus } from "./postgres/migrate.ts";
import { assertNode } from "./node-version.ts";
import type { Rebuilt } from "./verify/rebuild.ts";
import type { VerifyProgress, VerifyReport } from "./verify/verify.ts";

const USAGE = `Usage: npm run verify -- [options]
  --wallet <id>  only this wallet and the transfers in its history
  --rebuild      writes rows of wallets and holds anew that are not what the events make of them,
                 while hosts serve
  --json         one JSON object on standard output
  --help
The databases: DATABASE_URL, or else the embedded one under DATA_DIR (.coffer), whether Coffer runs
there or not.
Exit code: 0 nothing is wrong, 1 differences, 2 it could not look.`;

interface Options {
  readonly walletId: string | undefined;
  readonly isRebuild: boolean;
  readonly isJson: boolean;
}

const print = (line: string): void => void process.stdout.write(`${line}\n`);
const complain = (line: string): void => void process.stderr.write(`${line}\n`);

exitOnSignals();
process.exitCode = await main().catch((error: unknown) => {
  complain(messageOf(error));
  return 2;
});

/** Null when they are wrong, which is told. */
function readArguments() {
  try {
    return parseArgs({
      options: {
        wallet: { type: "string" },
        rebuild: { type: "boolean", default: false },
        json: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    complain(`${messageOf(error)}\n${USAGE}`);
    return null;
  }
}

async function main(): Promise<number> {
  assertNode();
  const values = readArguments();
  if (values === null) return 2;
  if (values.help) {
    print(USAGE);
    return 0;
  }
  const options: Options = {
    walletId: values.wallet,
    isRebuild: values.rebuild,
    isJson: values.json,
  };
  const { DATABASE_URL, DATA_DIR } = process.env;
  const { databaseUrls, dataDir } = readConfig({ DATABASE_URL, DATA_DIR });
  if (databaseUrls.length > 0) return await look(databaseUrls, options);
  const embedded = await useEmbeddedPostgres(dataDir);
  try {
    return await look([embedded.url], options);
  } finally {
    await embedded.stop();
  }
}

async function look(databaseUrls: readonly string[], options: Options): Promise<number> {
  await assertUsable(databaseUrls);
  const { rebuildWallet } = await import("./verify/rebuild.ts");
  const dealtWith = new Map<string, Rebuilt>();
  const report = await reconcile(databaseUrls, options, async (walletId, database) => {
    // One without events is met twice: with its row, and with its holds.
    if (!options.isRebuild || dealtWith.has(walletId)) return;
    dealtWith.set(walletId, await rebuildWallet(databaseUrls[database]!, walletId));
  });
  const rebuilt = [...dealtWith.values()];
  if (options.walletId !== undefined && report.events === 0 && report.differences === 0) {
    throw new Error(`There is no wallet ${options.walletId}`);
  }
  const written = rebuilt.filter(({ type }) => type === "rebuilt");
  // What was found has been dealt with, or has not: only another look can tell.
  const after = written.length > 0 ? await reconcile(databaseUrls, options) : null;
  if (options.isJson)
    print(JSON.stringify({ ...report, ...(options.isRebuild && { rebuilt, after }) }));
  else tell(report, rebuilt, after);
  return (after ?? report).differences === 0 ? 0 : 1;
}

/** A database of another version, or in another place, would be all differences. */
async function assertUsable(databaseUrls: readonly string[]): Promise<void> {
  for (const url of databaseUrls) {
    const states = await migrationStatus(url).catch((error: unknown) => {
      throw new Error(`${databaseName(url)}: ${messageOf(error)}`, { cause: error });
    });
    const other = states.find(({ appliedAt, known }) => appliedAt === undefined || !known);
    if (other === undefined) continue;
    throw new Error(
      other.known
        ? `${databaseName(url)} has not the schema of this version, ${other.name} is missing; npm run migrate -- up`
        : `${databaseName(url)} has the schema of a newer version, ${other.name}; use that version's verify`,
    );
  }
  const log = { warn: complain };
  const watching = await watchDeployment({ databaseUrls, log, onMismatch: complain });
  watching.stop();
}

async function reconcile(
  databaseUrls: readonly string[],
  { walletId, isJson }: Options,
  onWalletDiffers?: (walletId: string, database: number) => Promise<void>,
): Promise<VerifyReport> {
  // Loaded only now: an older Node cannot, and should be told what it is before.
  const { verify } = await import("./verify/verify.ts");
  const progress = isJson ? { show: () => undefined, stop: () => undefined } : showProgress();
  try {
    return await verify({
      databaseUrls,
      onProgress: progress.show,
      ...(walletId !== undefined && { walletId }),
      ...(onWalletDiffers !== undefined && { onWalletDiffers }),
    });
  } finally {
    progress.stop();
  }
}

/** A bar for each stage, or its lines. */
function showProgress(): { show(progress: VerifyProgress): void; stop(): void } {
  let stage = "";
  let shown: Progress | undefined;
  return {
    show(progress) {
      if (progress.stage !== stage) {
        shown?.stop();
        stage = progress.stage;
        shown = startProgress(stage, progress.total);
      }
      shown?.show(progress.done, progress.total);
    },
    stop: () => shown?.stop(),
  };
}

function tell(report: VerifyReport, rebuilt: readonly Rebuilt[], after: VerifyReport | null): void {
  tellReport(report);
  for (const one of rebuilt) {
    if (one.type === "rebuilt") tellRebuilt(one);
    if (one.type === "refused") print(`Did not rebuild wallet ${one.walletId}: ${one.reason}.`);
  }
  if (after === null) return;
  print("After the rebuild:");
  tellReport(after);
}

function tellRebuilt({
  walletId,
  version,
  isRowWritten,
  holds,
}: Extract<Rebuilt, { type: "rebuilt" }>): void {
  if (isRowWritten) print(`Rebuilt wallet ${walletId} at version ${version}.`);
  const named = holds.slice(0, LIMITS.verifyNamedPerKindMax);
  for (const { type, holdId } of named)
    print(`Rebuilt hold ${holdId} of wallet ${walletId}: ${type}.`);
  if (holds.length === named.length) return;
  print(`Rebuilt ${counted(holds.length - named.length, "more hold")} of wallet ${walletId}.`);
}

function tellReport(report: VerifyReport): void {
  const { wallets, events, transfers, differences, warnings, named, byKind } = report;
  for (const { kind, text } of named) print(`${kind}: ${text}`);
  for (const [kind, count] of Object.entries(byKind)) {
    const shown = named.filter((one) => one.kind === kind).length;
    if (shown < count) {
      print(`${kind}: ${count - shown} more, ${DIFFERENCE_KINDS[kind as DifferenceKind]}.`);
    }
  }
  const seconds = (Date.parse(report.finishedAt) - Date.parse(report.startedAt)) / 1_000;
  const looked = [
    counted(wallets, "wallet"),
    counted(events, "event"),
    counted(transfers, "transfer"),
  ];
  const found = differences === 0 ? "no difference" : counted(differences, "difference");
  const rest = warnings === 0 ? "" : `, ${counted(warnings, "warning")}`;
  print(`${looked.join(", ")} in ${seconds.toFixed(1)} s: ${found}${rest}`);
}
