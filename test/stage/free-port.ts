/**
 * A port that nobody uses now. It is free again when this returns, so whoever takes it has to be
 * ready to find it taken.
 */
import { listenOnce } from "../../src/listen-once.ts";

export function freePort(): Promise<number> {
  return listenOnce(0, "127.0.0.1");
}
