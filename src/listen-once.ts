/**
 * Whether one may listen somewhere, found out by doing so for a moment: it is closed before it has
 * taken a connection, so whoever connects is refused as before. Somebody else may be faster
 * afterwards; who listens in earnest still has to be prepared for that.
 */
import { createServer, type AddressInfo } from "node:net";

/**
 * @param port 0 for any free one
 * @returns the port
 * @throws what the system says, such as `EADDRINUSE`
 */
export function listenOnce(port: number, host: string): Promise<number> {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once("error", fail);
    server.listen(port, host, () => {
      const found = (server.address() as AddressInfo).port;
      server.close(() => done(found));
    });
  });
}
