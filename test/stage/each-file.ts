/**
 * Runs before each file of integration tests: files share what they load, and each begins as if it
 * were the first.
 */
import { restartNumbers } from "./ids.ts";

restartNumbers();
