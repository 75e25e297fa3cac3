/** A wire to a database that can be cut and tapped: for what happens when a database is away. */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { expect, onTestFinished } from "vitest";

/**
 * The same database by way of a port of ours, which can fall silent or refuse.
 *
 * @param ourPort 0: any that is free
 * @param passOn what becomes of the first message of each connection
 */
export async function openWire(
  url: string,
  ourPort = 0,
  passOn: (startup: Buffer) => Buffer = (startup) => startup,
): Promise<{
  url: string;
  hang(): void;
  close(): void;
  /** Resolves when the database has said this, in what it said last. */
  heard(text: string): Promise<void>;
}> {
  const { port, hostname } = new URL(url);
  const sockets = new Set<Socket>();
  let isSilent = false;
  let said = "";
  const server = createServer((socket) => {
    const onward = connect(Number(port), hostname);
    let isFirst = true;
    onward.on("data", (bytes) => {
      said = (said + bytes.toString("latin1")).slice(-65_536);
    });
    for (const [from, to] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      sockets.add(from);
      from.on("error", () => undefined);
      from.on("close", () => to.destroy());
      from.on("data", (bytes) => {
        if (isSilent) return;
        to.write(isFirst && to === onward ? passOn(bytes) : bytes);
        isFirst = false;
      });
    }
  });
  await new Promise<void>((done) => server.listen(ourPort, "127.0.0.1", done));
  function close(): void {
    server.close();
    for (const socket of sockets) socket.destroy();
  }
  onTestFinished(close);
  const wired = new URL(url);
  wired.host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    url: wired.href,
    hang() {
      isSilent = true;
    },
    close,
    async heard(text) {
      await expect.poll(() => said, { timeout: 30_000 }).toContain(text);
    },
  };
}
