/** What may stand where a database is expected: a pooler, and servers that answer one thing only. */
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { createSecureContext, TLSSocket } from "node:tls";
import { onTestFinished } from "vitest";

/**
 * The first message of a connection without its options, as PgBouncer passes it on with
 * `ignore_startup_parameters = options` (PostgreSQL manual, "Message Formats", StartupMessage).
 */
export function withoutOptions(startup: Buffer): Buffer {
  const fields = startup.subarray(8).toString("latin1").split("\0");
  const kept: string[] = [];
  for (let at = 0; fields[at] !== undefined && fields[at] !== ""; at += 2) {
    if (fields[at] !== "options") kept.push(`${fields[at]}\0${fields[at + 1]}\0`);
  }
  const body = Buffer.from(`${kept.join("")}\0`, "latin1");
  const head = Buffer.from(startup.subarray(0, 8));
  head.writeInt32BE(head.length + body.length);
  return Buffer.concat([head, body]);
}

/** Refuses every connection with an error of the protocol. Resolves to where it listens. */
export async function openRefusing(code: string, message: string): Promise<string> {
  const fields = Buffer.from(`SFATAL\0C${code}\0M${message}\0\0`);
  const head = Buffer.alloc(5, "E");
  head.writeInt32BE(4 + fields.length, 1);
  const answer = Buffer.concat([head, fields]);
  return await open((socket) => socket.once("data", () => socket.end(answer)));
}

/** Speaks TLS with a certificate of an authority that nobody knows, and does not send that one's. */
export async function openWithStrangeCertificate(): Promise<string> {
  return await open((socket) => {
    socket.once("data", () => {
      socket.write("S");
      const secureContext = createSecureContext({ key: KEY, cert: CERTIFICATE });
      new TLSSocket(socket, { isServer: true, secureContext }).on("error", () => undefined);
    });
  });
}

async function open(onSocket: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    onSocket(socket);
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  onTestFinished(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** Both are of nothing but these tests; good for 100 years. */
const KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgUhRcxUKinZEn7w+g
ZO6BgB1ilIppgQbslP6oIKVWtUihRANCAAQnzvsnvr+ByD5HVC63nPB0X3VuQ7Bh
eG8R/NYOGWGE5ZkxU7hu1PkCNH54iKJGTB0As32X7aoXt9aXvqjjIB0x
-----END PRIVATE KEY-----`;

const CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBJzCBzgIUBn1+dLSBj+63z1abfQBckoxafUMwCgYIKoZIzj0EAwIwFzEVMBMG
A1UEAwwMYW4gYXV0aG9yaXR5MCAXDTI2MTEyMzE3NTgzMVoYDzIxMjYxMDMwMTc1
ODMxWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMB
BwNCAAQnzvsnvr+ByD5HVC63nPB0X3VuQ7BheG8R/NYOGWGE5ZkxU7hu1PkCNH54
iKJGTB0As32X7aoXt9aXvqjjIB0xMAoGCCqGSM49BAMCA0gAMEUCIFDzh437mOhS
CwefqAgAbsZVfw8ngZ2d+bGIVZIFQeDZAiEApOZ/+Vsct204vg8RhkpCooE6F8/S
Sbt3kTLiu6TY3QE=
-----END CERTIFICATE-----`;
