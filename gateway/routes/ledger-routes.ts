/**
 * The ledger's routes: committed events as double entry. An event that moves money makes one entry
 * of two lines, the wallet's and the system account's that it names, which sum to zero; nothing is
 * written for it, so nothing can differ from the history. Money between two wallets goes by
 * `system:transit`: a transfer is two entries, in two databases perhaps.
 */
import { formatAmount } from "../../src/core/amount.ts";
import type { Assets } from "../../src/assets.ts";
import { LIMITS } from "../../src/limits.ts";
import type { AccountTotal, ReadModel, StoredEvent } from "../../src/core/read-model.ts";
import { isoTime } from "../answers.ts";
import { apiError, ApiException, rejectionError } from "../errors.ts";
import { ledgerEntryBody } from "../history.ts";
import type { Routes } from "../http-server.ts";
import { rowsOf, versionCursor } from "../pages.ts";
import { existing, filterOf } from "./read-routes.ts";
import {
  LedgerPage,
  LedgerTransaction,
  TransactionParams,
  TrialBalance,
  TrialBalanceQuery,
  type TrialBalanceBody,
} from "./ledger-schemas.ts";
import { TransactionsQuery } from "./read-schemas.ts";
import { NoQuery, problems, WalletParams } from "../schemas.ts";

const tags = ["ledger"];

export function addLedgerRoutes(
  routes: Routes,
  readModel: ReadModel,
  assets: Pick<Assets, "assetOf">,
): void {
  routes.get(
    "/ledger/wallet/:walletId",
    {
      schema: {
        tags,
        summary: "The wallet's entries, newest first",
        description:
          "Both lines of each. `from` is inclusive, `to` is not. A page may be short: follow `Link` until there is none.",
        params: WalletParams,
        querystring: TransactionsQuery,
        response: { 200: LedgerPage, ...problems },
      },
    },
    async (request, reply) => {
      const { limit = LIMITS.pageRowsDefault, cursor, ...times } = request.query;
      const before = versionCursor(cursor);
      const filter = filterOf(times);
      const wallet = await existing(readModel, request.params.walletId);
      const page = await readModel.transactions(wallet.walletId, filter, limit, before);
      return rowsOf(request, reply, page).map((event) => ledgerEntryBody(event, wallet));
    },
  );
  routes.get(
    "/ledger/transactions/:transactionId",
    {
      schema: {
        tags,
        summary: "The balanced entries of a transaction",
        description:
          "By an event's id, `walletId:version`: its one entry. By a transfer's id: all its entries so far, in the order of sent, received, returned; while it is under way the rest is in `system:transit`.",
        params: TransactionParams,
        querystring: NoQuery,
        response: { 200: LedgerTransaction, ...problems },
      },
    },
    (request) => transaction(readModel, request.params.transactionId),
  );
  routes.get(
    "/ledger/trial-balance",
    {
      schema: {
        tags,
        summary: "Totals per account, which sum to zero",
        description: `All wallets together by their balances, the system accounts by every event that names them, both of the same moment. Each event is read once: the totals are kept, and go on from where the last question left them. When there is more to add than ${LIMITS.trialBalanceMs / 1_000} s allow, it ends with \`query_too_slow\`: ask again, it goes on. Each database is read at a moment of its own, so \`system:transit\` may show money that is on its way between two. A known \`currency\` without any wallet has no totals: the list is empty. One that is not known is \`asset_not_found\`.`,
        querystring: TrialBalanceQuery,
        response: { 200: TrialBalance, ...problems },
      },
    },
    async (request): Promise<TrialBalanceBody> => {
      const asOf = isoTime(Date.now());
      const { currency = null } = request.query;
      const totals = await readModel.trialBalance(currency);
      // A later ISO 4217 may have dropped an asset: what wallets hold of it is shown all the same.
      if (totals.length === 0 && currency !== null && (await assets.assetOf(currency)) === null) {
        throw new ApiException(rejectionError({ code: "asset_not_found", currency }));
      }
      return { asOf, currencies: currenciesOf(totals) };
    },
  );
}

const EVENT_ID = /^(.{1,128}):(\d{1,15})$/;

async function transaction(readModel: ReadModel, id: string) {
  const events = await eventsOf(readModel, id);
  const [first] = events;
  if (first === undefined) {
    const message = `Transaction ${id} does not exist`;
    throw new ApiException(apiError("transaction_not_found", message, { transactionId: id }));
  }
  // A transfer stays within one asset.
  const wallet = await readModel.wallet(first.walletId);
  if (wallet === null) throw new Error(`wallet ${first.walletId} has events and no row`);
  const { currency } = wallet;
  return {
    id,
    transferId: first.transferId,
    currency,
    entries: events.map((event) => ledgerEntryBody(event, wallet)),
  };
}

/** An id with a colon may be either: a wallet's name may look like that of an event. */
async function eventsOf(readModel: ReadModel, id: string): Promise<readonly StoredEvent[]> {
  const [, walletId, version] = EVENT_ID.exec(id) ?? [];
  if (walletId !== undefined) {
    const [event] = await readModel.events(walletId, Number(version), 1);
    if (event?.version === Number(version) && event.amountMinor !== null) return [event];
  }
  return readModel.transferEvents(id);
}

function currenciesOf(totals: readonly AccountTotal[]): TrialBalanceBody["currencies"] {
  const names = [...new Set(totals.map(({ currency }) => currency))].toSorted();
  return names.map((currency) => {
    const own = totals.filter((total) => total.currency === currency);
    const { decimalPlaces } = own[0]!;
    const sumMinor = own.reduce((sum, { balanceMinor }) => sum + balanceMinor, 0n);
    return {
      currency,
      sum: formatAmount(sumMinor, decimalPlaces),
      isBalanced: sumMinor === 0n,
      accounts: own.map(({ account, balanceMinor }) => ({
        account,
        balance: formatAmount(balanceMinor, decimalPlaces),
      })),
    };
  });
}
