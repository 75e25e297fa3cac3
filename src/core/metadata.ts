/**
 * Metadata: a JSON object that a caller hangs on a wallet or a command. It travels and is stored as
 * text in one canonical spelling, so that equal objects are equal texts, and a wallet reads the
 * same whether its metadata comes from a command or back from the database. It is changed by JSON
 * Merge Patch (RFC 7396), whose null removes a key. What it traded: a key cannot be set to null by
 * a change. Pure.
 */
import { LIMITS } from "../limits.ts";

export type Canonical =
  | { readonly ok: true; readonly text: string }
  | { readonly ok: false; readonly problem: string };

/**
 * The canonical text of an object, or why it cannot be stored. Keys are in the order of
 * PostgreSQL's jsonb: shorter first, then by bytes.
 */
export function canonicalMetadata(metadata: { readonly [key: string]: unknown }): Canonical {
  try {
    const text = write(metadata, 1, { bytes: LIMITS.metadataBytesMax });
    return metadataBytes(text) <= LIMITS.metadataBytesMax
      ? { ok: true, text }
      : { ok: false, problem: TOO_LARGE };
  } catch (error) {
    if (error instanceof Unwritable) return { ok: false, problem: error.message };
    throw error;
  }
}

/**
 * What a merge patch makes of metadata, as canonical text; both are JSON text of objects that
 * `canonicalMetadata` took. The result is no deeper than the deeper of them, but it may be longer
 * than `LIMITS.metadataBytesMax`: who asks must look.
 */
export function mergedMetadata(metadata: string, patch: string): string {
  return write(merge(JSON.parse(metadata), JSON.parse(patch)), 1, UNBOUNDED);
}

/** The canonical text of any JSON value, as deep as it is. */
export function canonicalJson(value: unknown): string {
  return write(value, -Infinity, UNBOUNDED);
}

/** UTF-8 bytes of a text. */
export function metadataBytes(text: string): number {
  let bytes = 0;
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index);
    // Each half of a surrogate pair counts as two of its four bytes.
    if (unit < 0x80) bytes += 1;
    else bytes += unit < 0x800 || isSurrogate(unit) ? 2 : 3;
  }
  return bytes;
}

/** Characters that PostgreSQL's text and jsonb cannot hold: NUL, and halves of surrogate pairs. */
export const UNSTORABLE = /[\0\p{Surrogate}]/u;
export const NOT_STORABLE = "must not contain NUL characters or halves of surrogate pairs";

// --- The patch -----------------------------------------------------------------------------------

/** `MergePatch` of RFC 7396, section 2. */
function merge(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const merged = new Map(isObject(target) ? Object.entries(target) : []);
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) merged.delete(name);
    else merged.set(name, merge(merged.get(name), value));
  }
  return Object.fromEntries(merged);
}

interface JsonObject {
  readonly [key: string]: unknown;
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// --- The spelling --------------------------------------------------------------------------------

class Unwritable extends Error {}

const TOO_LARGE = `must not exceed ${LIMITS.metadataBytesMax} bytes as JSON`;

/**
 * How much may still be written. A body has room for a hundred times what metadata may have, and
 * everybody waits while that is written: so it ends where the bytes are certain to be too many.
 */
interface Room {
  bytes: number;
}

const UNBOUNDED: Room = { bytes: Infinity };

/** So many bytes at least are written next; a text has no fewer of them than UTF-16 units. */
function take(room: Room, bytes: number): void {
  room.bytes -= bytes;
  if (room.bytes < 0) throw new Unwritable(TOO_LARGE);
}

function write(value: unknown, depth: number, room: Room): string {
  // What stands behind it: a comma, or the end of what it is in.
  take(room, 1);
  if (typeof value === "string") return writeText(value, room);
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new Unwritable("must not contain numbers beyond the range of a double");
  }
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (depth > LIMITS.metadataDepthMax) {
    throw new Unwritable(`must not be nested more than ${LIMITS.metadataDepthMax} levels deep`);
  }
  if (Array.isArray(value)) {
    return `[${value.map((item) => write(item, depth + 1, room)).join(",")}]`;
  }
  // Read one by one: what is not written is not even looked at.
  const members = Object.keys(value).map((name) => ({
    name,
    bytes: metadataBytes(name),
    text: `${writeName(name, room)}:${write((value as JsonObject)[name], depth + 1, room)}`,
  }));
  members.sort((one, other) => one.bytes - other.bytes || byCodePoints(one.name, other.name));
  return `{${members.map(({ text }) => text).join(",")}}`;
}

function writeName(name: string, room: Room): string {
  if (name === "__proto__") throw new Unwritable("must not contain the key __proto__");
  return writeText(name, room);
}

function writeText(text: string, room: Room): string {
  take(room, text.length);
  if (UNSTORABLE.test(text)) throw new Unwritable(NOT_STORABLE);
  return JSON.stringify(text);
}

function isSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdfff;
}

/** The order of their UTF-8 bytes; that of UTF-16 units is another one past U+FFFF. */
function byCodePoints(one: string, other: string): number {
  let index = 0;
  while (index < one.length && one.charCodeAt(index) === other.charCodeAt(index)) index += 1;
  return (one.codePointAt(index) ?? -1) - (other.codePointAt(index) ?? -1);
}
