/**
 * Which Node this needs, told before anything that an older one lacks is met: npm only warns of it,
 * in the middle of an installation, and what an older one says by itself names no version.
 */

/** As `engines` in package.json has it. */
export const NODE_NEEDED = "20.19";

/** What is wrong with this version of Node, or null. */
export function nodeTrouble(version: string): string | null {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  const [majorNeeded = 0, minorNeeded = 0] = NODE_NEEDED.split(".").map(Number);
  if (major > majorNeeded || (major === majorNeeded && minor >= minorNeeded)) return null;
  return `Coffer needs Node ${NODE_NEEDED} or later, and this is ${version}`;
}

/** @throws Error with that */
export function assertNode(): void {
  const trouble = nodeTrouble(process.versions.node);
  if (trouble !== null) throw new Error(trouble);
}
