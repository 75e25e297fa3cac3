/**
 * The connection over which one journal appends. It hides that a connection is made when it is
 * needed and forgotten when it is lost, how one in doubt is let go without a word to a server that
 * may not answer, and what must be set on it for commits to be durable, fenced and quick.
 */
import pg from "pg";
import { LIMITS } from "../limits.ts";
import { connectionConfig, DURABLE, INDEX_PROBES } from "./connection.ts";

const SETTINGS = [
  ...DURABLE,
  ...INDEX_PROBES,
  // A commit of one event looks cheaper with its own plan than with a general one, so it would be
  // planned anew each time: a fourth of what a small commit costs the database.
  "plan_cache_mode=force_generic_plan",
];

export interface Writer {
  /** Null until it is made, and when it is lost. */
  readonly current: pg.Client | null;
  get(): Promise<pg.Client>;
  /**
   * Forgets the connection without ceremony, so that nobody waits for a server that does not
   * answer. With a connection only that one, where another may have taken its place.
   */
  drop(connection?: pg.Client): void;
  close(): Promise<void>;
}

export function buildWriter(databaseUrl: string): Writer {
  const config = connectionConfig(databaseUrl, {
    name: "writer",
    connectMs: LIMITS.journalConnectMs,
    settings: [...SETTINGS, `statement_timeout=${LIMITS.journalStatementMs}`],
  });
  let connecting: Promise<pg.Client> | null = null;
  let current: pg.Client | null = null;
  let isClosed = false;

  async function connect(forget: () => void): Promise<pg.Client> {
    const client = new pg.Client({ ...config, pipeline: true });
    client.on("error", forget);
    client.on("end", forget);
    await client.connect();
    return client;
  }

  return {
    get current() {
      return current;
    },
    get() {
      if (isClosed) return Promise.reject(new Error("the journal is closed"));
      if (connecting === null) {
        const forget = (): void => {
          if (connecting === attempt) connecting = current = null;
        };
        const attempt = connect(forget);
        connecting = attempt;
        attempt.then((client) => {
          if (connecting === attempt) current = client;
        }, forget);
      }
      return connecting;
    },
    drop(connection) {
      if (connection !== undefined && connection !== current) return;
      const lost = connecting;
      connecting = current = null;
      void lost?.then(
        (client) => destroySocket(client),
        () => undefined,
      );
    },
    async close() {
      isClosed = true;
      const last = connecting;
      connecting = current = null;
      const client = await last?.catch(() => null);
      await client?.end().catch(() => undefined);
    },
  };
}

/** The driver's public `end` waits for the server; a connection in doubt must go at once. */
function destroySocket(client: pg.Client): void {
  const { connection } = client as unknown as { connection: { stream: { destroy(): void } } };
  connection.stream.destroy();
}
