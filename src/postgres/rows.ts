/**
 * How rows become the core's types: the columns to select, named as the types name them. Times
 * become milliseconds since 1970, and big integers numbers, on connections that are given
 * `NUMBERS`.
 */
import pg from "pg";

/**
 * bigint columns as numbers: every one of the schema is a version, an epoch or an amount, far
 * inside the safe integers.
 */
export const NUMBERS: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: "text" | "binary") =>
    oid === pg.types.builtins.INT8
      ? Number
      : pg.types.getTypeParser(oid, format)) as pg.CustomTypesConfig["getTypeParser"],
};

/** Milliseconds since 1970 of a timestamptz column. */
export function milliseconds(column: string): string {
  return `round(extract(epoch from ${column}) * 1000)::float8`;
}

/** What events never change comes from `wallets w`. */
function walletColumns(changing: "w" | "e", metadata: string, updatedAt: string): string {
  return `
  w.wallet_id AS "walletId", w.owner_id AS "ownerId", w.currency, w.decimal_places AS "decimalPlaces",
  ${changing}.balance AS "balanceMinor", ${changing}.held AS "heldMinor", ${changing}.status, ${changing}.version,
  (${metadata})::text AS metadata, ${milliseconds("w.created_at")} AS "createdAtMs",
  ${milliseconds(updatedAt)} AS "updatedAtMs"`;
}

/** A `WalletState`, from `wallets w`. */
export const WALLET_COLUMNS = walletColumns("w", "w.metadata", "w.updated_at");

/**
 * The metadata as of an event `e`: that of the latest change up to it, or else of the creation. The
 * first look is one into the index `events_metadata`, which has nothing but such changes.
 */
const METADATA_AT = `
  SELECT coalesce(
    (SELECT m.data -> 'walletMetadata' FROM events m
     WHERE m.wallet_id = e.wallet_id AND m.version <= e.version AND m.type = 'WalletMetadataChanged'
     ORDER BY m.version DESC LIMIT 1),
    (SELECT c.data -> 'walletMetadata' FROM events c WHERE c.wallet_id = e.wallet_id AND c.version = 0))`;

/**
 * The same as of an event `e`: what events change comes from them, what they never change from the
 * row.
 */
export const WALLET_AT_COLUMNS = walletColumns("e", METADATA_AT, "e.occurred_at");

/** A `StoredEvent`, from `events e`. An id that is null repeats the command id. */
export const EVENT_COLUMNS = `
  e.wallet_id AS "walletId", e.version, e.type, e.amount AS "amountMinor", e.balance AS "balanceMinor",
  e.held AS "heldMinor", e.status, e.account, e.counterparty AS "counterpartyId", e.transfer_id AS "transferId",
  e.command_id AS "commandId", coalesce(e.correlation_id, e.command_id) AS "correlationId",
  coalesce(e.causation_id, e.command_id) AS "causationId", e.description, e.data,
  ${milliseconds("e.occurred_at")} AS "occurredAtMs"`;

/** A `Transfer`, from `transfers t`. */
export const TRANSFER_COLUMNS = `
  t.transfer_id AS "transferId", t.from_wallet AS "fromWalletId", t.to_wallet AS "toWalletId", t.amount AS "amountMinor",
  t.currency, t.decimal_places AS "decimalPlaces", t.status, t.from_version AS "fromVersion", t.to_version AS "toVersion",
  t.rejection, t.command_id AS "commandId", coalesce(t.correlation_id, t.command_id) AS "correlationId", t.description,
  t.hold_id AS "holdId", t.hold_final AS "isHoldFinal",
  ${milliseconds("t.created_at")} AS "createdAtMs", ${milliseconds("t.settled_at")} AS "settledAtMs"`;

/** A `Hold`, from `holds h`. */
export const HOLD_COLUMNS = `
  h.hold_id AS "holdId", h.wallet_id AS "walletId", h.amount AS "amountMinor", h.captured AS "capturedMinor", h.status, h.kind,
  h.reference, h.description, ${milliseconds("h.expires_at")} AS "expiresAtMs", ${milliseconds("h.created_at")} AS "createdAtMs",
  ${milliseconds("h.captured_at")} AS "capturedAtMs", ${milliseconds("h.released_at")} AS "releasedAtMs"`;
