/** The cluster as text: what a person must see, not every blank. */
import { describe, expect, it } from "vitest";

import type { ClusterBody, ClusterHostBody } from "../../gateway/routes/cluster-schemas.ts";
import { renderCluster } from "./cluster-table.ts";

const lane: ClusterHostBody["lanes"][number] = {
  name: "lane 0",
  shards: 128,
  serving: true,
  actors: 5_000,
  mailboxDepth: 3,
  outstanding: 12,
  pendingTransfers: 1,
};

function host(hostId: string, more: Partial<ClusterHostBody> = {}): ClusterHostBody {
  return {
    hostId,
    owner: `${hostId}:run`,
    answering: true,
    startedAt: "2026-01-01T11:00:00.000Z",
    ready: true,
    leaving: false,
    owned: { count: 128, list: "0-127" },
    served: { count: 128, list: "0-127" },
    epoch: 7,
    claimedAt: "2026-01-01T11:00:02.000Z",
    lanes: [lane],
    books: null,
    handOffs: [],
    ...more,
  };
}

function cluster(hosts: ClusterHostBody[], more: Partial<ClusterBody> = {}): ClusterBody {
  const none = { count: 0, list: "" };
  return {
    at: "2026-01-01T12:04:00.000Z",
    gateway: { id: "gateway-1", bus: "connected" },
    shards: { total: 256, owned: { count: 256, list: "0-255" }, orphaned: none, unknown: none },
    shardsReason: null,
    hosts,
    ...more,
  };
}

const SILENT = {
  answering: false,
  startedAt: null,
  ready: null,
  leaving: null,
  served: null,
  lanes: [],
};

describe("a cluster in order", () => {
  it("is a table of hosts and lanes without a mark of trouble", () => {
    const text = renderCluster(cluster([host("host-a"), host("host-b", { lanes: [lane, lane] })]));
    expect(text).not.toContain("!");
    expect(text.split("\n")).toEqual([
      "2026-01-01T12:04:00.000Z  2 hosts, 256 of 256 shards owned",
      "",
      "host      state    shards  epoch  actors  mailbox  outstanding  pending     up",
      "host-a    ready       128      7    5000        3           12        1  1h04m",
      "  lane 0  serving     128           5000        3           12        1",
      "host-b    ready       128      7   10000        6           24        2  1h04m",
      "  lane 0  serving     128           5000        3           12        1",
      "  lane 0  serving     128           5000        3           12        1",
    ]);
  });

  it("lists the latest hand-offs of all hosts, the newest first", () => {
    const shards = { count: 2, list: "4,9" };
    const text = renderCluster(
      cluster([
        host("host-a", {
          handOffs: [
            { at: "2026-01-01T12:00:01.000Z", type: "handed over", shards, peer: "host-b:run" },
            { at: "2026-01-01T11:00:00.000Z", type: "taken", shards, peer: null },
          ],
        }),
        host("host-b", {
          handOffs: [{ at: "2026-01-01T12:00:02.000Z", type: "taken", shards, peer: "host-a:run" }],
        }),
      ]),
    );
    expect(text.split("\n").slice(-4)).toEqual([
      "latest hand-offs",
      "2026-01-01T12:00:02.000Z  host-b  taken        2 shards: 4,9  from host-a",
      "2026-01-01T12:00:01.000Z  host-a  handed over  2 shards: 4,9  to host-b",
      "2026-01-01T11:00:00.000Z  host-a  taken        2 shards: 4,9",
    ]);
  });
});

describe("trouble is marked", () => {
  const some = { count: 3, list: "1-3" };
  const none = { count: 0, list: "" };
  it.each<[string, ClusterBody, string]>([
    ["a silent host", cluster([host("a"), host("b", SILENT)]), "! 1 of 2 hosts answering"],
    ["a silent host's line", cluster([host("b", SILENT)]), "! no answer"],
    ["a host that is not ready", cluster([host("a", { ready: false })]), "! not ready"],
    ["a lane", cluster([host("a", { lanes: [{ ...lane, serving: false }] })]), "! not serving"],
    ["no hosts", cluster([]), "! no host answers"],
    [
      "orphaned shards",
      cluster([host("a")], {
        shards: { total: 256, owned: some, orphaned: some, unknown: none },
      }),
      "! 3 without an owner",
    ],
    [
      "a database that is away",
      cluster([host("a")], {
        shards: { total: 256, owned: some, orphaned: none, unknown: some },
      }),
      "! 3 in a database that is away",
    ],
    [
      "no shard table",
      cluster([host("a", { owned: null, epoch: null })], {
        shards: null,
        shardsReason: "connection refused",
      }),
      "! shards unknown (connection refused)",
    ],
    [
      "a gateway without its bus",
      cluster([], { gateway: { id: "g", bus: "reconnecting" } }),
      "! the gateway's bus is reconnecting",
    ],
  ])("%s", (_what, view, mark) => {
    expect(renderCluster(view)).toContain(mark);
  });

  it("a hand-off under way shows as two numbers of shards", () => {
    const text = renderCluster(cluster([host("a", { served: { count: 96, list: "0-95" } })]));
    expect(text).toContain("128, serves 96");
  });
});
