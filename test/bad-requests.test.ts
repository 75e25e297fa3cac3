/**
 * Requests that are wrong beside their bodies: paths, queries, methods, and bytes on a socket that
 * are no HTTP.
 */
import { connect } from "node:net";
import { describe, expect, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import {
  describeTheEnd,
  invalid,
  REFUSAL_MS_MAX,
  stack,
  stake,
  useBadInputStage,
  words,
  wrongIn,
} from "./stage/bad-input.ts";

useBadInputStage();

describe("a path that is not percent-encoded", () => {
  const paths = ["%", "%zz", "%ff", "%C3", "%u0041", "a%"].flatMap((id) => [
    `/wallets/${id}`,
    `/wallets/${id}/credit`,
    `/operations/${id}`,
  ]);

  it.each(paths)("is refused: %s", async (path) => {
    for (const method of ["GET", "POST"]) {
      const { status, body } = await stack.ask(method, path);
      expect([status, body.code, body.details[0]?.field]).toEqual([...invalid, "path"]);
    }
  });

  it("is answered with its correlation id like any other", async () => {
    const { headers, body } = await stack.ask("GET", "/wallets/%", {
      headers: { "x-correlation-id": "mine" },
    });
    expect([headers["x-correlation-id"], body.correlationId]).toEqual(["mine", "mine"]);
  });
});

describe("a query", () => {
  const cursor = (text: string) => Buffer.from(text).toString("base64url");
  const limits = words("0 -1 1001 abc NaN Infinity 1.5 1e2 0x10 %201 99999999999999999999");
  it.each([
    ...limits.concat("").flatMap((limit) => [
      ["/wallets", `limit=${limit}`, "limit"],
      [":id/events", `limit=${limit}`, "limit"],
    ]),
    ["/wallets", "limit=1&limit=2", "limit"],
    ["/wallets", "limit[]=1", "limit[]"],
    ["/wallets", "unknown=1", "unknown"],
    ["/wallets", "constructor=1", "constructor"],
    ["/wallets", "__proto__=1", "__proto__"],
    ["/wallets", "status=active", "status"],
    ["/wallets", "ownerId=a%20b", "ownerId"],
    ["/wallets", "ownerId=a&ownerId=b", "ownerId"],
    ["/wallets", "currency=%00", "currency"],
    ["/wallets", "cursor=", "cursor"],
    ["/wallets", "cursor=%00", "cursor"],
    ["/wallets", "cursor=!!", "cursor"],
    ["/wallets", `cursor=${cursor("a b")}`, "cursor"],
    ["/wallets", `cursor=${cursor("\0")}`, "cursor"],
    ["/wallets", `cursor=${"x".repeat(513)}`, "cursor"],
    [":id", "include=holds", "include"],
    [":id", "include=auditTrail;transactions", "include"],
    [":id", `include=${"auditTrail,".repeat(100)}`, "include"],
    [":id", "limit=1", "limit"],
    [":id", "version=-1", "version"],
    [":id", "version=1e3", "version"],
    [":id", "version=", "version"],
    [":id", "version=0&at=2026-01-01", "version"],
    [":id", "at=now", "at"],
    [":id", "at=2026-02-30", "at"],
    [":id", "at=2999-01-01T00:00:00Z", "at"],
    [":id", "at=2026-01-01T00:00:00.0000000001Z", "at"],
    [":id", "at=1700000000000", "at"],
    ...words("-1 1e3 1.5e-3 NaN Infinity 1, .5 1. 0x10 %2B1 %201").flatMap((bound) => [
      ["/wallets", `minBalance=${bound}`, "minBalance"],
      ["/wallets", `maxBalance=${bound}`, "maxBalance"],
    ]),
    ["/wallets", "minBalance=", "minBalance"],
    ["/wallets", `maxBalance=${"9".repeat(65)}`, "maxBalance"],
    ["/wallets", "minBalance=1&minBalance=2", "minBalance"],
    ["/wallets", "q=", "q"],
    ["/wallets", "q=%00", "q"],
    ["/wallets", "q=a&q=b", "q"],
    ["/wallets", `q=${"x".repeat(257)}`, "q"],
    ["/wallets", "metadata=x", "metadata"],
    ["/wallets", "metadata.=x", "metadata."],
    ["/wallets", "metadata[tier]=x", "metadata[tier]"],
    ["/wallets", "metadata.tier=%00", "metadata.tier"],
    ["/wallets", "metadata.tier=a&metadata.tier=b", "metadata.tier"],
    ["/wallets", `metadata.tier=${"x".repeat(257)}`, "metadata.tier"],
    [
      "/wallets",
      Array.from({ length: LIMITS.metadataFiltersMax + 1 }, (_, n) => `metadata.${n}=1`).join("&"),
      `metadata.${LIMITS.metadataFiltersMax}`,
    ],
    [":id/transfers", "cursor=!!", "cursor"],
    [":id/transfers", `cursor=${cursor("a")}`, "cursor"],
    ["/ledger/wallet/a%20b", "", "walletId"],
    ["/ledger/wallet/w", "type=WalletCredited", "type"],
    ["/ledger/wallet/w", "from=now", "from"],
    ["/ledger/wallet/w", "from=2026-01-02&to=2026-01-01", "to"],
    ["/ledger/wallet/w", `cursor=${cursor("-1")}`, "cursor"],
    ["/ledger/wallet/w", "status=posted", "status"],
    ["/ledger/transactions/a%20b", "", "transactionId"],
    ["/ledger/transactions/a", "limit=1", "limit"],
    ["/ledger/trial-balance", "currency=%00", "currency"],
    ["/ledger/trial-balance", "limit=1", "limit"],
    [":id/transactions", "type=credit", "type"],
    [":id/transactions", "from=yesterday", "from"],
    [":id/transactions", "from=", "from"],
    [":id/transactions", "from=2026-01-01T12:00:00Z&to=2026-01-01T12:30:00%2B01:00", "to"],
    [":id/transactions", "from=1e9", "from"],
    [":id/transactions", "to=2026-13-01", "to"],
    [":id/transactions", "to=2026-02-30", "to"],
    [":id/transactions", "to=2026-01-01T25:00:00Z", "to"],
    [":id/transactions", "to=2026-01-01T00:00:00%2B99:00", "to"],
    [":id/transactions", `cursor=${cursor("-1")}`, "cursor"],
    [":id/transactions", `cursor=${cursor("1e3")}`, "cursor"],
    [":id/transactions", `cursor=${cursor("9".repeat(16))}`, "cursor"],
    [":id/events", "fromVersion=-1", "fromVersion"],
    [":id/events", "fromVersion=1.5", "fromVersion"],
    [":id/events", "fromVersion=99999999999999999999", "fromVersion"],
    [":id/transfers", "status=POSTED", "status"],
    ["/assets", "x=1", "x"],
    ["/transfers/a%20b", "", "transferId"],
    ["/operations/a%00", "", "idempotencyKey"],
    [`/operations/${"x".repeat(257)}`, "", "idempotencyKey"],
    ["/operations/a", "walletId=%20", "walletId"],
  ] as [string, string, string][])(
    "of GET %s?%s is refused by the name %s",
    async (route, query, field) => {
      const path = route.replace(":id", `/wallets/${stake.from}`);
      expect(await wrongIn([...invalid, field], "GET", `${path}?${query}`, {})).toBeNull();
    },
  );

  it("of DELETE, which nobody would read, keeps what would be removed", async () => {
    const made = await stack.post<{ id: string }>("/webhooks", { url: "https://example.com/" });
    expect(made.status).toBe(201);
    const path = `/webhooks/${made.body.id}`;
    const problem = await wrongIn([...invalid, "dryRun"], "DELETE", `${path}?dryRun=true`, {});
    expect([problem, (await stack.get(path)).status]).toEqual([null, 200]);
    expect((await stack.ask("DELETE", path)).status).toBe(204);
  });
});

describe("a method", () => {
  const paths = () =>
    words(
      `/ /wallets /wallets/${stake.from} /wallets/${stake.from}/credit /assets /wallets/fund /health /openapi.json /ws /nowhere * // /%`,
    );

  it.each(words("PUT DELETE OPTIONS TRACE HEAD PROPFIND SEARCH"))(
    "%s is answered everywhere, and changes nothing",
    async (method) => {
      for (const path of paths()) {
        const { status, headers, text } = await stack.ask(method, path);
        const isAllowSaid = status !== 405 || /^[A-Z]/.test(headers["allow"] ?? "");
        const isSilent = method !== "HEAD" || text === "";
        const isRight = status < 500 && isAllowSaid && isSilent;
        expect([method, path, status, isRight]).toEqual([method, path, status, true]);
      }
    },
  );
});

/** Writes raw bytes; what came back when the server closed, or null when it did neither in time. */
function raw(
  pieces: readonly (string | Buffer)[],
  waitMs = REFUSAL_MS_MAX,
): Promise<string | null> {
  return new Promise((resolve) => {
    let given = "";
    const socket = connect(stack.port, "127.0.0.1", () => {
      for (const piece of pieces)
        socket.write(typeof piece === "string" ? Buffer.from(piece, "latin1") : piece);
    });
    const timer = setTimeout(() => {
      socket.destroy();
      resolve(given === "" ? null : given);
    }, waitMs);
    socket.on("data", (chunk: Buffer) => (given += chunk.toString()));
    socket.on("error", () => undefined);
    socket.once("close", () => {
      clearTimeout(timer);
      resolve(given);
    });
  });
}

describe("a socket", () => {
  const post = (headers: string, body = "") => [
    `POST /wallets/${stake.from}/credit HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${headers}\r\n${body}`,
  ];

  it.each<[string, () => (string | Buffer)[]]>([
    ["random bytes", () => [Buffer.from(Array.from({ length: 4_096 }, (_, i) => (i * 167) % 256))]],
    ["a TLS hello", () => [Buffer.from("16030100c8010000c40303", "hex"), Buffer.alloc(200)]],
    ["HTTP/2", () => ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]],
    ["HTTP/9", () => ["GET / HTTP/9.9\r\nhost: x\r\n\r\n"]],
    ["no host", () => ["GET /health/live HTTP/1.1\r\n\r\n"]],
    ["two lengths", () => post("content-length: 12\r\ncontent-length: 13\r\n", '{"amount":1}')],
    ["a length below zero", () => post("content-length: -1\r\n", '{"amount":1}')],
    [
      "a length and chunks",
      () => post("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
    ],
    ["chunks of no size", () => post("transfer-encoding: chunked\r\n", "xyz\r\n{}\r\n0\r\n\r\n")],
    ["an unknown coding", () => post("transfer-encoding: gzip\r\n", "x")],
    ["a header with a NUL", () => post("x: a\0b\r\ncontent-length: 2\r\n", "{}")],
    ["a path beyond ASCII", () => ["GET /wallets/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n"]],
    ["a path with a blank", () => ["GET /wallets/a b HTTP/1.1\r\nhost: x\r\n\r\n"]],
    ["an unknown method", () => ["FOO / HTTP/1.1\r\nhost: x\r\n\r\n"]],
    ["large headers", () => [`GET / HTTP/1.1\r\nhost: x\r\nx: ${"y".repeat(20_000)}\r\n\r\n`]],
    ["a large path", () => [`GET /${"y".repeat(20_000)} HTTP/1.1\r\nhost: x\r\n\r\n`]],
    ["an expectation", () => post("expect: a miracle\r\ncontent-length: 12\r\n", '{"amount":0}')],
  ])("with %s is refused and closed", async (_name, pieces) => {
    const given = await raw(pieces());
    expect(given).not.toBeNull();
    if (given !== "") expect(given).toMatch(/^HTTP\/1\.1 4\d\d /);
  });

  it.each<[string, () => string[]]>([
    ["half a header", () => ["POST /wallets HTTP/1.1\r\nhost: x\r\ncont"]],
    ["half a body", () => post("content-length: 100\r\n", '{"amount":')],
    ["half a chunk", () => post("transfer-encoding: chunked\r\n", '5\r\n{"a')],
  ])("that sends %s and no more is told that its time is over", async (_name, pieces) => {
    const given = await raw(pieces());
    expect(given).toMatch(/^HTTP\/1\.1 408 .*"code":"request_timeout"/s);
  });

  it("that sends its request byte by byte is served like any other", async () => {
    const [head] = post("content-length: 12\r\nconnection: close\r\n", '{"amount":0}');
    const given = await raw(head!.split(""));
    expect(given).toMatch(/^HTTP\/1\.1 400 .*"code":"invalid_amount"/s);
  });

  it("that goes away in the middle of many requests harms nobody", async () => {
    const leave = async (at: number) =>
      raw([post("content-length: 100\r\n", "{")[0]!.slice(0, at)], 20);
    await Promise.all(Array.from({ length: 100 }, (_, index) => leave(index * 2 + 1)));
    expect((await stack.get("/health/ready")).status).toBe(200);
  });

  it("that sends its key behind 2,000 other headers is heard with its key", async () => {
    const headers = `${"a: b\r\n".repeat(2_050)}idempotency-key: \r\nconnection: close\r\n`;
    const given = await raw(post(`content-length: 12\r\n${headers}`, '{"amount":0}'));
    expect(given).toMatch(/^HTTP\/1\.1 422 .*Idempotency-Key must not be empty/s);
  });

  it("that offers HTTP/2 is answered in HTTP/1.1, as if it had not", async () => {
    const offer =
      "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n";
    const given = await raw(post(`${offer}content-length: 12\r\n`, '{"amount":0}'), 500);
    expect(given).toMatch(/^HTTP\/1\.1 400 .*"code":"invalid_amount"/s);
  });
});

describeTheEnd();
