/**
 * Preloaded into each process that a benchmark starts, so that none outlives it, however it dies:
 * standard input is a pipe from the benchmark, and its end is taken as SIGTERM. It only listens,
 * costs nothing while the pipe is silent, and keeps no process alive. Worker threads load it too
 * and have nothing to do here.
 */
import { isMainThread } from "node:worker_threads";

if (isMainThread) {
  process.stdin.once("end", () => process.kill(process.pid, "SIGTERM")).resume();
  // A pipe is a socket, which can be told not to hold the process; a file or terminal is none and
  // cannot.
  if ("unref" in process.stdin) process.stdin.unref();
}
