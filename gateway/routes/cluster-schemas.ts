/** The cluster as `GET /cluster` shows it, and what hosts may say about themselves on the bus. */
import { Type, type Static } from "typebox";

import { LIMITS } from "../../src/limits.ts";
import { described, nullableInteger, nullableText, nullableTime, Time, words } from "../schemas.ts";

function nullableFlag(description: string) {
  return Type.Unsafe<boolean | null>({ type: ["boolean", "null"], description });
}
const Count = Type.Integer({ minimum: 0 });

/** Shards, counted and as ranges. */
const ShardSet = Type.Object({
  count: Count,
  list: Type.String({ description: "Ranges in ascending order, `0-127,130`; empty for none" }),
});

const ClusterLane = Type.Object({
  name: Type.String(),
  shards: Count,
  serving: Type.Boolean({ description: "False while it starts, or its database is away" }),
  actors: Type.Integer({ minimum: 0, description: "Wallets in memory" }),
  mailboxDepth: Type.Integer({ minimum: 0, description: "Messages that wait" }),
  outstanding: Type.Integer({
    minimum: 0,
    description:
      "Commands accepted and not answered, but for those away with a question to another lane",
  }),
  pendingTransfers: Type.Integer({ minimum: 0, description: "Transfers that are not settled" }),
  damagedWallets: Type.Optional(
    Type.Integer({ minimum: 0, description: "More than 0: see `npm run verify`" }),
  ),
});

const HandOff = Type.Object({
  at: Time,
  type: described(
    words("taken", "handed over", "lost"),
    "`lost`: another host had taken them, and this one found out",
  ),
  shards: ShardSet,
  peer: nullableText(
    "Who had them before (taken), or should take them (handed over); null when it is not known",
  ),
});

const Books = Type.Object({
  running: Type.Boolean({ description: "Whether a reconciliation is under way" }),
  lastRunAt: Type.Union([Time, Type.Null()], { description: "End of the last whole one" }),
  differences: Type.Integer({ minimum: 0, description: "More than 0: see `npm run verify`" }),
  warnings: Type.Integer({ minimum: 0, description: "Transfers that are pending for too long" }),
  walletsChecked: Type.Integer({ minimum: 0, description: "Since the host began" }),
});

const ClusterHost = Type.Object({
  hostId: Type.String({ description: "Its `HOST_ID`" }),
  owner: Type.String({ description: "This run of it, as the shard table names it" }),
  answering: Type.Boolean({ description: "Whether it answered this gateway's question in time" }),
  startedAt: nullableTime("Null, as all that the host itself says, when it did not answer"),
  ready: nullableFlag("Whether it serves commands"),
  leaving: nullableFlag("Whether it is handing its shards over, to end"),
  owned: Type.Union([ShardSet, Type.Null()], {
    description: "By the shard table, which decides; null while it cannot be read",
  }),
  served: Type.Union([ShardSet, Type.Null()], {
    description: "As the host says; during a hand-off it differs from `owned`",
  }),
  epoch: nullableInteger("The highest epoch of its shards"),
  claimedAt: nullableText("When it took a shard last, by the database's clock"),
  lanes: Type.Array(ClusterLane),
  books: Type.Union([Books, Type.Null()], {
    description: "What its reconciliation knows; null when it has none, or did not answer",
  }),
  handOffs: Type.Array(HandOff, { description: "Latest first" }),
});
export type ClusterHostBody = Static<typeof ClusterHost>;

export const Cluster = Type.Object(
  {
    at: Time,
    gateway: Type.Object({
      id: Type.String(),
      bus: words("connected", "reconnecting", "closed"),
    }),
    shards: Type.Union(
      [
        Type.Object({
          total: Count,
          owned: ShardSet,
          orphaned: described(ShardSet, "Without an owner: commands for them wait"),
          unknown: described(ShardSet, "In a database that cannot be reached"),
        }),
        Type.Null(),
      ],
      { description: "Null while the shard table cannot be read" },
    ),
    shardsReason: nullableText("Why `shards` is null"),
    hosts: Type.Array(ClusterHost, {
      description: "Those that answered, and those that own shards and did not",
    }),
  },
  {
    examples: [
      {
        at: "2026-01-01T12:00:00.000Z",
        gateway: { id: "gateway-1-01a1fe63-456c-7b6c-a5df-ed7df22ead10", bus: "connected" },
        shards: {
          total: 256,
          owned: { count: 256, list: "0-255" },
          orphaned: { count: 0, list: "" },
          unknown: { count: 0, list: "" },
        },
        shardsReason: null,
        hosts: [
          {
            hostId: "host-1",
            owner: "host-1:7d1f3c52-0c53-4d0f-9f0e-0a8e3f1f2c11",
            answering: true,
            startedAt: "2026-01-01T11:00:00.000Z",
            ready: true,
            leaving: false,
            owned: { count: 256, list: "0-255" },
            served: { count: 256, list: "0-255" },
            epoch: 3,
            claimedAt: "2026-01-01T11:00:02.500Z",
            lanes: [
              {
                name: "lane-0",
                shards: 256,
                serving: true,
                actors: 5120,
                mailboxDepth: 4,
                outstanding: 12,
                pendingTransfers: 0,
                damagedWallets: 0,
              },
            ],
            books: {
              running: false,
              lastRunAt: "2026-01-01T11:58:12.250Z",
              differences: 0,
              warnings: 0,
              walletsChecked: 51_200,
            },
            handOffs: [
              {
                at: "2026-01-01T11:00:02.500Z",
                type: "taken",
                shards: { count: 128, list: "0-127" },
                peer: "host-2:1c9e6a34-6b1e-4a43-8c5a-5d1f0f3b7a90",
              },
            ],
          },
        ],
      },
    ],
  },
);
export type ClusterBody = Static<typeof Cluster>;

/**
 * What a host may answer on the bus (`HostStatus` of `src/core/protocol.ts`): NATS carries what
 * anybody publishes.
 */
const shardList = Type.Array(Type.Integer({ minimum: 0, maximum: LIMITS.shardCount - 1 }), {
  maxItems: LIMITS.shardCount,
});
/** Printable, since terminals show it. */
const ShortText = Type.String({ maxLength: LIMITS.keyLengthMax, pattern: "^[ -~]*$" });
export const HostStatusMessage = Type.Object({
  hostId: ShortText,
  owner: ShortText,
  startedAt: Time,
  ready: Type.Boolean(),
  leaving: Type.Boolean(),
  shards: shardList,
  lanes: Type.Array(
    Type.Object({ ...ClusterLane.properties, name: ShortText, serving: Type.Boolean() }),
    { maxItems: LIMITS.shardCount },
  ),
  books: Type.Optional(Books),
  handOffs: Type.Array(
    Type.Object({
      at: Time,
      type: words("taken", "handed over", "lost"),
      shards: shardList,
      peer: Type.Union([ShortText, Type.Null()]),
    }),
    { maxItems: LIMITS.handOffsKept },
  ),
});
