/**
 * The NATS service over a real server, before hosts and a database that fail it: what its callers
 * are told then, and what the operator is.
 */
import { connect, headers as newHeaders } from "nats";
import { expect, it, onTestFinished } from "vitest";

import { buildAnswers } from "../gateway/answers.ts";
import { buildWalletService } from "../gateway/nats-service.ts";
import { ReadUnavailable } from "../src/core/read-model.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { loneGatewayOptions } from "./stage/lone-gateway.ts";
import { withLimits } from "./stage/lanes.ts";
import { startNats } from "./stage/servers.ts";
import { wallet as walletOf } from "./stage/wallet-fixtures.ts";

interface ServiceReply {
  readonly ok: boolean;
  readonly data: object;
  readonly error: object;
}

async function serve(wallet: () => Promise<WalletState | null>) {
  const { options, close } = loneGatewayOptions();
  const server = await startNats();
  const connection = await connect({ servers: server.url });
  onTestFinished(async () => {
    await connection.close();
    await server.stop();
    await close();
  });
  const lines: object[] = [];
  const spans: unknown[] = [];
  const state = walletOf();
  const [walletId, version] = [state.walletId, state.version];
  await buildWalletService({
    connection,
    // As when a command's first sending has committed, and its gateway had to ask again
    commands: { submit: async () => ({ type: "replayed", walletId, version, transferId: null }) },
    readModel: { wallet },
    takeIn: options.takeIn,
    answer: buildAnswers({
      readModel: {
        walletAt: async () => state,
        holdAt: async () => null,
        transfer: async () => null,
      },
      log: { error: (line) => void lines.push(line) },
    }),
    batches: options.batches,
    version: options.version,
    log: { error: (line) => void lines.push(line) },
    tracing: {
      begin: (_kind, name) => ({
        traceparent: "",
        end: (attributes, failure) => void spans.push([name, attributes, failure]),
      }),
      committed: () => undefined,
      stop: async () => undefined,
    },
  });
  const asking = async (endpoint: string, key?: string) => {
    const headers = newHeaders();
    if (key !== undefined) headers.set("Idempotency-Key", key);
    const payload = JSON.stringify({ walletId, ...(endpoint === "credit" && { amount: 1 }) });
    const message = await connection.request(`wallets.v1.${endpoint}`, payload, {
      timeout: 5_000,
      headers,
    });
    const replay = message.headers?.get("Idempotent-Replayed") ?? "";
    return { replay, ...message.json<ServiceReply>() };
  };
  return { asking, lines, spans, connection };
}

it("tells of a replay only who has sent a key: all others ask for the first time", async () => {
  const { asking } = await serve(async () => null);
  expect(await asking("credit")).toMatchObject({ ok: true, replay: "", data: { version: 4 } });
  expect(await asking("credit", "key-1")).toMatchObject({ ok: true, replay: "true" });
});

it("is unavailable while the database is away, and an error of Coffer's own otherwise", async () => {
  const reads = [
    () => Promise.reject(new ReadUnavailable("unavailable", "away")),
    () => Promise.reject(new Error("a bug")),
  ];
  const { asking, lines } = await serve(() => reads.shift()!());
  expect((await asking("get")).error).toMatchObject({ code: "unavailable", statusCode: 503 });
  expect(lines).toEqual([]);
  expect((await asking("get")).error).toMatchObject({ code: "internal_error", statusCode: 500 });
  expect(lines).toMatchObject([{ endpoint: "get" }]);
});

it("refuses what is larger than over HTTP, whatever its NATS server lets through", async () => {
  const { asking } = await serve(async () => walletOf());
  const bytes = JSON.stringify({ walletId: walletOf().walletId }).length;
  withLimits({ httpBodyBytesMax: bytes });
  expect(await asking("get")).toMatchObject({ ok: true, data: { version: 4 } });
  withLimits({ httpBodyBytesMax: bytes - 1, batchBodyBytesMax: bytes - 1 });
  for (const endpoint of ["get", "batch"]) {
    const { ok, error } = await asking(endpoint);
    expect({ endpoint, ok, error }).toMatchObject({
      ok: false,
      error: { code: "payload_too_large", statusCode: 413 },
    });
  }
  // And a batch has a bound of its own
  withLimits({ batchBodyBytesMax: bytes });
  expect((await asking("batch")).error).toMatchObject({ code: "validation_failed" });
});

it("ends a request's span with what became of it, as a failure where Coffer could not serve", async () => {
  const reads = [
    () => Promise.resolve(walletOf()),
    () => Promise.resolve(null),
    () => Promise.reject(new ReadUnavailable("unavailable", "away")),
    () => Promise.reject(new Error("a bug")),
  ];
  const { asking, spans } = await serve(() => reads.shift()!());
  while (reads.length > 0) await asking("get");
  const told = [
    [200, undefined, undefined],
    [404, "wallet_not_found", undefined],
    [503, "unavailable", "unavailable"],
    [500, "internal_error", "internal_error"],
  ] as const;
  expect(spans).toEqual(
    told.map(([status, code, failure]) => [
      "NATS wallets.v1.get",
      { "coffer.status": status, ...(code !== undefined && { "coffer.error.code": code }) },
      failure,
    ]),
  );
});
