/**
 * The writing routes: each makes a command of a request, asks for it and tells what became of it.
 * They differ in where the wallet's id stands and, some, in how the answer is laid out; everything
 * else is the intake's, the desk's and the answers' work. `run` is the hot path of the gateway.
 */
import type { FastifyReply, FastifyRequest } from "fastify";

import { answerBody, type GiveAnswer, type TransferOutcome, type Yes } from "../answers.ts";
import type { RequestFields, RequestType, TakeIn } from "../command-intake.ts";
import type { CommandDesk } from "../commands.ts";
import { bringsCorrelation, keyHeader, sendError, type Routes } from "../http-server.ts";
import {
  AmountBody,
  CreateBody,
  FundBody,
  SendBody,
  StepBody,
  TransferRequestBody,
  UpdateBody,
} from "./command-schemas.ts";
import { problems, ref, SendAnswer, TransferAnswer, Wallet, WalletParams } from "../schemas.ts";

export interface RunDeps {
  readonly commands: Pick<CommandDesk, "submit">;
  readonly takeIn: TakeIn;
  readonly answer: GiveAnswer;
}

/** Makes a response of a yes, where it is laid out in a way of its own. */
export type Respond = (answer: Yes, reply: FastifyReply) => unknown;

export type Run = (
  request: FastifyRequest,
  reply: FastifyReply,
  type: RequestType,
  walletId: string | null,
  fields: RequestFields,
  respond?: Respond,
) => Promise<unknown>;

/** Header of every answer to a dry run. */
export const DRY_RUN = "dry-run";

export function addWalletRoutes(routes: Routes, run: Run): void {
  addOwnRoutes(routes, run);
  addLifeRoutes(routes, run);
  addTransferRoutes(routes, run);
}

/** From a request to its response: the one path that every command takes. */
export function buildRun({ commands, takeIn, answer }: RunDeps): Run {
  return async (request, reply, type, walletId, fields, respond) => {
    const taken = takeIn(type, walletId, fields, {
      correlationId: request.id,
      isCorrelationNew: !bringsCorrelation(request.raw),
      key: keyHeader(request),
      traceparent: request.traceparent,
    });
    const intake = taken instanceof Promise ? await taken : taken;
    if (fields.dryRun === true) reply.header(DRY_RUN, "true");
    if (!intake.ok) return sendError(request, reply, intake.error);
    const { command } = intake;
    const given = answer(await commands.submit(command), command);
    const settled = given instanceof Promise ? await given : given;
    if (settled.isReplay && intake.isKeyed) reply.header("idempotent-replayed", "true");
    if (settled.type === "error") return sendError(request, reply, settled.error);
    if (respond !== undefined) return respond(settled, reply);
    if (settled.type === "transfer") acceptPending(settled.transfer, reply);
    return answerBody(type, settled);
  };
}

/** Money from the outside and to it, in the words of the document. */
const MONEY = {
  credit: {
    summary: "Put money in",
    description: "From outside, in the ledger from `system:world`.",
  },
  debit: {
    summary: "Take money out",
    description:
      "To the outside, in the ledger to `system:world`. More than is `available` gives `insufficient_funds`.",
  },
} as const;

/** Creation, and money of one wallet. */
function addOwnRoutes(routes: Routes, run: Run): void {
  const tags = ["wallets"];
  const walletAnswer = { 200: ref(Wallet), ...problems };

  routes.post(
    "/wallets",
    {
      schema: {
        tags,
        summary: "Create a wallet",
        description:
          "With an initial balance it is credited in the same commit. An id that is taken gives `wallet_already_exists`, a currency that is no asset `asset_not_found`.",
        body: CreateBody,
        response: { 201: ref(Wallet), ...problems },
      },
      preValidation: takeNoBody,
    },
    (request, reply) => {
      const { walletId = null } = request.body;
      return run(request, reply, "create", walletId, request.body, respondCreated);
    },
  );
  routes.post(
    "/wallets/fund",
    {
      schema: {
        tags,
        summary: "Fund a wallet",
        description: "A credit whose transaction has the type `FUND`.",
        body: FundBody,
        response: walletAnswer,
      },
    },
    (request, reply) => run(request, reply, "fund", request.body.wallet_id, request.body),
  );
  for (const type of ["credit", "debit"] as const) {
    const own = { tags, ...MONEY[type], params: WalletParams, response: walletAnswer };
    routes.post(
      `/wallets/:walletId/${type}`,
      { schema: { ...own, body: AmountBody } },
      (request, reply) => run(request, reply, type, request.params.walletId, request.body),
    );
  }
}

/** How a wallet's life goes, in the words of the document. */
const STEPS = {
  suspend: {
    summary: "Suspend a wallet",
    description:
      "No money goes out or in until it is activated, except a transfer that comes back; what has left already arrives. A wallet that is suspended already gives `wallet_not_active`: there was a reason before yours, and one `activate` ends it.",
  },
  activate: {
    summary: "Activate a wallet",
    description: "Money moves again. On an active wallet it is recorded and changes nothing.",
  },
  close: {
    summary: "Close a wallet",
    description:
      "For ever. It must have a balance of 0, no holds and no transfers under way, or else `details` of `wallet_not_empty` say what there is. A closed wallet can be read, and its id is not given again.",
  },
} as const;

/** Commands that move no money of one wallet. */
function addLifeRoutes(routes: Routes, run: Run): void {
  const own = {
    tags: ["wallets"],
    params: WalletParams,
    response: { 200: ref(Wallet), ...problems },
  };
  for (const type of ["suspend", "activate", "close"] as const) {
    routes.post(
      `/wallets/:walletId/${type}`,
      { schema: { ...own, ...STEPS[type], body: StepBody }, preValidation: takeNoBody },
      (request, reply) => run(request, reply, type, request.params.walletId, request.body),
    );
  }
  routes.patch(
    "/wallets/:walletId",
    {
      schema: {
        ...own,
        summary: "Change a wallet's metadata",
        description:
          "By JSON Merge Patch (RFC 7396): a key is set, null removes it, what is not named stays. Of a suspended wallet too; a closed one stays as it is.",
        body: UpdateBody,
      },
    },
    (request, reply) => run(request, reply, "update", request.params.walletId, request.body),
  );
}

const TRANSFER =
  "Both wallets hold the same asset. 202 with `status: pending` says that the payee has not decided in time: the money has left, it arrives or comes back by itself, and `GET /transfers/{transferId}` tells which.";

function addTransferRoutes(routes: Routes, run: Run): void {
  const tags = ["transfers"];
  routes.post(
    "/wallets/:walletId/transfer",
    {
      schema: {
        tags,
        summary: "Pay another wallet",
        description: TRANSFER,
        params: WalletParams,
        body: TransferRequestBody,
        response: { 200: TransferAnswer, 202: TransferAnswer, ...problems },
      },
    },
    (request, reply) => run(request, reply, "transfer", request.params.walletId, request.body),
  );
  routes.post(
    "/wallets/transfer",
    {
      schema: {
        tags,
        summary: "Pay from one wallet to another",
        description: `The same as \`POST /wallets/{walletId}/transfer\`, with both wallets in the body. ${TRANSFER}`,
        body: SendBody,
        response: { 200: SendAnswer, 202: SendAnswer, ...problems },
      },
    },
    (request, reply) => {
      const { senderWalletId, receiverWalletId } = request.body;
      const fields = { ...request.body, toWalletId: receiverWalletId };
      return run(request, reply, "transfer", senderWalletId, fields, respondSent);
    },
  );
}

/** Commands whose fields are all optional may come without a body. */
export function takeNoBody(request: FastifyRequest, _reply: FastifyReply, done: () => void): void {
  if (request.body === undefined) request.body = {};
  done();
}

const respondCreated: Respond = (answer, reply) => {
  if (answer.type !== "wallet") return mismatch();
  return sendMade(reply, `/wallets/${answer.wallet.id}`, answer.wallet);
};

/** A dry run has made nothing that could be found there. */
export function sendMade(reply: FastifyReply, location: string, made: object): FastifyReply {
  reply.code(201);
  if (!reply.hasHeader(DRY_RUN)) reply.header("location", location);
  return reply.send(made);
}

const respondSent: Respond = (answer, reply) => {
  if (answer.type !== "transfer") return mismatch();
  acceptPending(answer.transfer, reply);
  const { transferId, status, from, to } = answer.transfer;
  return { transferId, status, sender: from, ...(to !== null && { receiver: to }) };
};

function acceptPending({ status }: TransferOutcome, reply: FastifyReply): void {
  if (status === "pending") reply.code(202);
}

/** A command was answered with the outcome of another kind of command: one of our own mistakes. */
export function mismatch(): never {
  throw new Error("the outcome does not belong to the command");
}
