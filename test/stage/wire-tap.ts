/** A wire to PostgreSQL that a test can make deaf, or cut. */
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { onTestFinished } from "vitest";

export interface WireTap {
  /** The database behind the wire. */
  url: string;
  /** Nothing arrives that the server says. */
  isDeaf: boolean;
  /** It is cut when the server says something. */
  cutsAnswers: boolean;
  /** The next connection is cut at once. */
  cutsNext: boolean;
}

/** Until the test ends. */
export async function wireTap(databaseUrl: string): Promise<WireTap> {
  const to = new URL(databaseUrl);
  const wire: WireTap = { url: "", isDeaf: false, cutsAnswers: false, cutsNext: false };
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect({ host: to.hostname, port: Number(to.port) });
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on("error", () => undefined);
    }
    client.pipe(upstream);
    client.on("close", () => upstream.destroy());
    upstream.on("close", () => client.destroy());
    upstream.on("data", (chunk) => {
      if (wire.cutsAnswers) client.destroy();
      else if (!wire.isDeaf) client.write(chunk);
    });
    if (wire.cutsNext) client.destroy();
    wire.cutsNext = false;
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  wire.url = databaseUrl.replace(to.host, `127.0.0.1:${port}`);
  return wire;
}
