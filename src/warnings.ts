/**
 * Warnings of Node and of libraries. Node prints them as plain text on standard error, where every
 * line of ours is JSON; so each thread takes them to where it tells all else.
 */
export function takeWarnings(tell: (text: string) => void): void {
  process.removeAllListeners("warning");
  process.on("warning", ({ name, message }) => tell(`${name}: ${message}`));
}
