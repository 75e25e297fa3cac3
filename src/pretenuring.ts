/**
 * Turns off V8's pretenuring in this process, lanes included; imported first. V8 watches which code
 * makes objects that outlive a collection of the young generation, and from then on makes those in
 * the old one. When hundreds of requests are under way at once, that is everything that belongs to
 * a request, and it stays so: each later request is old at birth, keeps the young objects that it
 * leads to, and waits for a full collection (docs/adr/0013).
 */
import { setFlagsFromString } from "node:v8";

setFlagsFromString("--no-allocation-site-pretenuring");
