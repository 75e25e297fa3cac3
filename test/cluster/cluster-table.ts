/**
 * The cluster as a person reads it on a terminal: what `npm run cluster`
 * (`cluster-cli.ts`) shows of `GET /cluster`. One line says whether all shards are
 * served, one line stands for each host, indented ones for its lanes, and the latest hand-offs of
 * all hosts follow. Trouble is marked with `!`, so that it is found without colours. Pure text; the
 * caller prints it.
 */
import { alignColumns } from "../../bench/statistics.ts";
import { hostIdOf } from "../../gateway/routes/cluster-routes.ts";
import type { ClusterBody, ClusterHostBody } from "../../gateway/routes/cluster-schemas.ts";

/** Hand-offs shown, of all hosts together. */
const HAND_OFFS_SHOWN = 8;
/**
 * Characters of a list of shards, past which it is cut: rendezvous hashing scatters a host's
 * shards.
 */
const LIST_CHARS_MAX = 32;

/** Lines, joined, without a newline at the end. */
export function renderCluster(cluster: ClusterBody): string {
  const parts = [headline(cluster), "", ...hostTable(cluster)];
  const handOffs = handOffTable(cluster);
  if (handOffs.length > 0) parts.push("", ...handOffs);
  return parts.join("\n");
}

function headline({ shards, shardsReason, hosts, gateway, at }: ClusterBody): string {
  const answering = hosts.filter((host) => host.answering).length;
  const count = `${hosts.length} host${hosts.length === 1 ? "" : "s"}`;
  const facts = [answering === hosts.length ? count : `! ${answering} of ${count} answering`];
  if (shards === null) facts.push(`! shards unknown (${shardsReason ?? "no reason given"})`);
  else {
    facts.push(`${shards.owned.count} of ${shards.total} shards owned`);
    if (shards.orphaned.count > 0) facts.push(`! ${shards.orphaned.count} without an owner`);
    if (shards.unknown.count > 0)
      facts.push(`! ${shards.unknown.count} in a database that is away`);
  }
  if (gateway.bus !== "connected") facts.push(`! the gateway's bus is ${gateway.bus}`);
  return `${at}  ${facts.join(", ")}`;
}

const HOST_COLUMNS = [
  "host",
  "state",
  "shards",
  "epoch",
  "actors",
  "mailbox",
  "outstanding",
  "pending",
  "up",
];
const LEFT_COLUMNS = 2;

function hostTable({ hosts, at }: ClusterBody): string[] {
  if (hosts.length === 0) return ["! no host answers, and none owns a shard"];
  const rows = [HOST_COLUMNS];
  for (const host of hosts) {
    const sum = (count: (lane: ClusterHostBody["lanes"][number]) => number) =>
      host.answering ? `${host.lanes.reduce((total, lane) => total + count(lane), 0)}` : "-";
    rows.push([
      host.hostId,
      stateOf(host),
      shardsOf(host),
      host.epoch === null ? "-" : `${host.epoch}`,
      sum((lane) => lane.actors),
      sum((lane) => lane.mailboxDepth),
      sum((lane) => lane.outstanding),
      sum((lane) => lane.pendingTransfers),
      host.startedAt === null ? "-" : durationText(Date.parse(at) - Date.parse(host.startedAt)),
    ]);
    for (const lane of host.lanes) {
      rows.push([
        `  ${lane.name}`,
        lane.serving ? "serving" : "! not serving",
        `${lane.shards}`,
        "",
        `${lane.actors}`,
        `${lane.mailboxDepth}`,
        `${lane.outstanding}`,
        `${lane.pendingTransfers}`,
        "",
      ]);
    }
  }
  return alignColumns(rows, LEFT_COLUMNS);
}

function stateOf(host: ClusterHostBody): string {
  if (!host.answering) return "! no answer";
  if (host.leaving === true) return "leaving";
  return host.ready === true ? "ready" : "! not ready";
}

/**
 * Owned by the table; what the host serves follows when it is another number, as during a hand-off.
 */
function shardsOf({ owned, served }: ClusterHostBody): string {
  if (owned === null) return served === null ? "-" : `serves ${served.count}`;
  if (served === null || served.count === owned.count) return `${owned.count}`;
  return `${owned.count}, serves ${served.count}`;
}

function handOffTable({ hosts }: ClusterBody): string[] {
  const all = hosts
    .flatMap((host) => host.handOffs.map((handOff) => ({ host: host.hostId, ...handOff })))
    .toSorted((one, other) => Date.parse(other.at) - Date.parse(one.at))
    .slice(0, HAND_OFFS_SHOWN);
  if (all.length === 0) return [];
  const rows = all.map(({ at, host, type, shards, peer }) => [
    at,
    host,
    type,
    `${shards.count} shard${shards.count === 1 ? "" : "s"}: ${shortened(shards.list)}`,
    peer === null ? "" : `${type === "handed over" ? "to" : "from"} ${hostIdOf(peer)}`,
  ]);
  return ["latest hand-offs", ...alignColumns(rows, rows[0]!.length)];
}

function shortened(list: string): string {
  if (list.length <= LIST_CHARS_MAX) return list;
  const end = list.lastIndexOf(",", LIST_CHARS_MAX);
  return `${list.slice(0, end > 0 ? end : LIST_CHARS_MAX)},...`;
}

/**
 * `3s`, `2m05s`, `1h04m`, `12d3h`; clocks of two machines may differ, so it is never below zero.
 */
function durationText(durationMs: number): string {
  if (!Number.isFinite(durationMs)) return "-";
  const seconds = Math.max(0, Math.floor(durationMs / 1_000));
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  const two = (value: number) => String(value).padStart(2, "0");
  if (minutes === 0) return `${seconds}s`;
  if (hours === 0) return `${minutes}m${two(seconds % 60)}s`;
  if (hours < 24) return `${hours}h${two(minutes % 60)}m`;
  return `${Math.floor(hours / 24)}d${hours % 24}h`;
}
