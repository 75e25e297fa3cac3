/**
 * The routes of holds: place, capture, release, and the two reads. The writes go the way of every
 * command (`wallet-routes.ts`), and differ in what they answer: a hold, or a hold with its wallet,
 * and with the transfer when the capture pays another wallet.
 */
import { holdBody } from "../../src/event-body.ts";
import { LIMITS } from "../../src/limits.ts";
import type { ReadModel } from "../../src/core/read-model.ts";
import { ApiException, rejectionError } from "../errors.ts";
import type { Routes } from "../http-server.ts";
import { idCursor, rowsOf } from "../pages.ts";
import { existing } from "./read-routes.ts";
import { CaptureBody, PlaceHoldBody, ReleaseBody } from "./command-schemas.ts";
import { HoldPage, HoldParams, HoldsQuery } from "./read-schemas.ts";
import {
  CaptureAnswer,
  Hold,
  NoQuery,
  problems,
  ref,
  ReleaseAnswer,
  WalletParams,
} from "../schemas.ts";
import { mismatch, sendMade, takeNoBody, type Respond, type Run } from "./wallet-routes.ts";

type HoldReads = Pick<ReadModel, "wallet" | "hold" | "holds">;

export function addHoldRoutes(routes: Routes, run: Run, readModel: HoldReads): void {
  addHoldWrites(routes, run);
  addHoldReads(routes, readModel);
}

/** How a hold ends, in the words of the document. */
const ENDS = {
  capture: {
    summary: "Capture held money",
    description:
      "All that is left, or a part of it, once or several times. With `toWalletId` it is a transfer, 202 while that is pending; if the payee refuses, nothing has happened to the hold. With `final` the rest becomes available: at once, or as soon as the payee has the money; then the answer still shows it as held. The hold has ended then: what an earlier capture brings back later is available too.",
    params: HoldParams,
    body: CaptureBody,
    response: { 200: CaptureAnswer, 202: CaptureAnswer, ...problems },
  },
  release: {
    summary: "Release a hold",
    description: "What is left of it is available again. Of a suspended wallet too.",
    params: HoldParams,
    body: ReleaseBody,
    response: { 200: ReleaseAnswer, ...problems },
  },
} as const;

function addHoldWrites(routes: Routes, run: Run): void {
  const tags = ["holds"];
  routes.post(
    "/wallets/:walletId/holds",
    {
      schema: {
        tags,
        summary: "Set money aside",
        description:
          "Part of what is available is held until it is captured, released, or expires. The balance stays as it is.",
        params: WalletParams,
        body: PlaceHoldBody,
        response: { 201: ref(Hold), ...problems },
      },
    },
    (request, reply) =>
      run(request, reply, "hold", request.params.walletId, request.body, respondPlaced),
  );
  for (const type of ["capture", "release"] as const) {
    routes.post(
      `/wallets/:walletId/holds/:holdId/${type}`,
      { schema: { tags, ...ENDS[type] }, preValidation: takeNoBody },
      (request, reply) => {
        const { walletId, holdId } = request.params;
        return run(request, reply, type, walletId, { ...request.body, holdId });
      },
    );
  }
}

const respondPlaced: Respond = (answer, reply) => {
  if (answer.type !== "hold") return mismatch();
  const { hold } = answer;
  return sendMade(reply, `/wallets/${hold.walletId}/holds/${hold.id}`, hold);
};

function addHoldReads(routes: Routes, readModel: HoldReads): void {
  const tags = ["holds"];
  routes.get(
    "/wallets/:walletId/holds",
    {
      schema: {
        tags,
        summary: "A wallet's holds, newest first",
        params: WalletParams,
        querystring: HoldsQuery,
        response: { 200: HoldPage, ...problems },
      },
    },
    async (request, reply) => {
      const { status = null, limit = LIMITS.pageRowsDefault, cursor } = request.query;
      const before = idCursor(cursor);
      const { walletId, decimalPlaces } = await existing(readModel, request.params.walletId);
      const page = await readModel.holds(walletId, status, limit, before);
      return rowsOf(request, reply, page).map((hold) => holdBody(hold, decimalPlaces));
    },
  );
  routes.get(
    "/wallets/:walletId/holds/:holdId",
    {
      schema: {
        tags,
        summary: "A hold",
        params: HoldParams,
        querystring: NoQuery,
        response: { 200: ref(Hold), ...problems },
      },
    },
    async (request) => {
      const { holdId } = request.params;
      const { walletId, decimalPlaces } = await existing(readModel, request.params.walletId);
      const hold = await readModel.hold(walletId, holdId);
      if (hold !== null) return holdBody(hold, decimalPlaces);
      throw new ApiException(rejectionError({ code: "hold_not_found", walletId, holdId }));
    },
  );
}
