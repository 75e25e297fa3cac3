/**
 * `POST /batch`: the envelope of a batch over HTTP. Its room is taken before the body is read, by
 * the length that the request announces, and given back when the answer has left; the answer is
 * written while later commands are still under way, so that a slow reader holds back its own batch
 * and no memory.
 */
import { Readable } from "node:stream";

import type { FastifyReply, FastifyRequest } from "fastify";

import { LIMITS } from "../../src/limits.ts";
import { batchKeyOf, checkBatch, type Batches } from "../batch.ts";
import { apiError, ApiException } from "../errors.ts";
import { keyHeader, sendError, type Routes } from "../http-server.ts";
import { BatchAnswer, BatchBody } from "./batch-schemas.ts";
import { problems } from "../schemas.ts";

const description = [
  `Up to ${LIMITS.batchCommandsMax} commands, each on its own: it has its own outcome, in the order of the commands, and one that is refused stops no other.`,
  "Commands of one wallet happen in their order, unless one has to be tried again for a fault on the way: a transfer into a wallet waits for those out of it before it, and the other way round. Only transfers out of one wallet, or into one, may change places among themselves.",
  "Give each command an `idempotencyKey`, or the batch one, here or as the header, which names its command number n (from 0) `<key>/<n>`: then a batch can be repeated, and nothing happens twice.",
  "`unavailable` and `overloaded` as outcomes say that this command did nothing. `dryRun` stands in each command that is to be tried out; nothing marks its outcome. `atomic` does not exist yet, and is refused.",
].join(" ");

export function addBatchRoute(routes: Routes, batches: Batches): void {
  routes.addHook("preClose", (done) => {
    void batches.drain();
    done();
  });
  routes.post(
    "/batch",
    {
      schema: {
        tags: ["batches"],
        summary: "Many commands at once",
        description,
        body: BatchBody,
        response: { 200: BatchAnswer, ...problems },
      },
      bodyLimit: LIMITS.batchBodyBytesMax,
      onRequest: takePlace,
      validatorCompiler: (part) => {
        if (part.httpPart !== "body") return routes.validatorCompiler!(part);
        return (body) => {
          const error = checkBatch(body);
          return error === null ? true : { error: new ApiException(error) };
        };
      },
    },
    (request, reply) => {
      const key = batchKeyOf(request.body.idempotencyKey, keyHeader(request));
      if (typeof key === "object") return sendError(request, reply, key);
      const pieces = batches.run(request.body.commands, {
        correlationId: request.id,
        key,
        traceparent: request.traceparent,
        isGone: () => reply.raw.destroyed,
      });
      return reply
        .type("application/json; charset=utf-8")
        .send(Readable.from(pieces, { objectMode: false, highWaterMark: LIMITS.batchPieceChars }));
    },
  );

  function takePlace(request: FastifyRequest, reply: FastifyReply, done: () => void): void {
    const length = Number(request.headers["content-length"] ?? LIMITS.batchBodyBytesMax);
    const bytes = length <= LIMITS.batchBodyBytesMax ? length : 0;
    const place = batches.enter(bytes);
    if (typeof place === "string") {
      void sendError(request, reply, apiError(place));
      return;
    }
    reply.raw.once("close", () => place.leave());
    done();
  }
}
