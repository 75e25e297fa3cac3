/**
 * The membership port over virtual time: a Redis that keeps each sign of life until it runs out,
 * and may be away, come back empty, or lie. A lie is told to one reader for one look: a living
 * member is missing, a dead one is there, or nobody is. Nothing that depends on it may be wrong,
 * only late.
 */
import type { Member, Membership } from "../../actors/membership.ts";
import { LIMITS } from "../../src/limits.ts";
import type { Random } from "./random.ts";
import type { Process, Scheduler } from "./scheduler.ts";

export interface RegistryFaults {
  /** How likely one look is answered with a lie. */
  lie: number;
  /** How likely one call fails, whether it had its effect or not. */
  fail: number;
}

export interface Registry {
  faults: RegistryFaults;
  connect(process: Process): Membership;
  outage(forMs: number): void;
  /** Restarted without its data. */
  restartEmpty(): void;
  /** Nobody hears of this owner for a while, except itself. */
  hide(owner: string, forMs: number): void;
}

interface Sign {
  readonly member: Member;
  readonly untilMs: number;
}

export function buildRegistry(scheduler: Scheduler, random: Random): Registry {
  let signs = new Map<string, Sign>();
  /** Everybody who ever was, for lies about the dead. */
  const everybody = new Map<string, Member>();
  /** Which process an owner is. */
  const seen = new Map<string, string>();
  let awayUntilMs = 0;
  /** Owners that are hidden, and until when. */
  const hidden = new Map<string, number>();

  function livingFor(process: Process): Member[] {
    const members: Member[] = [];
    for (const [owner, { member, untilMs }] of signs) {
      if (untilMs <= scheduler.nowMs) signs.delete(owner);
      else if ((hidden.get(owner) ?? 0) <= scheduler.nowMs || process.name === seen.get(owner)) {
        members.push({ ...member });
      }
    }
    return members;
  }

  function lieAbout(members: Member[]): Member[] {
    switch (random.below(3)) {
      case 0:
        return [];
      case 1:
        return members.filter(() => random.chance(0.5));
      default: {
        const absent = [...everybody.values()].filter(
          ({ owner }) => !members.some((member) => member.owner === owner),
        );
        return absent.length === 0 ? members : [...members, { ...random.pick(absent) }];
      }
    }
  }

  /** A call from a process and back: it may fail on either way. */
  function call<T>(process: Process, what: string, work: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const there = random.between(0.1, 1);
      const back = random.between(0.1, 1);
      const isFailing = registry.faults.fail > 0 && random.chance(registry.faults.fail);
      const isDone = !isFailing || random.chance(0.5);
      const fail = (afterMs: number, reason: string): void =>
        void process.after(afterMs, `${what} failed`, () => reject(new Error(reason)));
      scheduler.after(there, what, () => {
        if (scheduler.nowMs < awayUntilMs) {
          fail(random.chance(0.5) ? back : LIMITS.redisAnswerMs, "Redis is away");
          return;
        }
        const result = isDone ? work() : undefined;
        if (isFailing) fail(LIMITS.redisAnswerMs, "no answer from Redis");
        else process.after(back, `${what} answered`, () => resolve(result as T));
      });
    });
  }

  const registry: Registry = {
    faults: { lie: 0, fail: 0 },
    connect: (process) => ({
      beat: (member) =>
        call(process, "beat", () => {
          everybody.set(member.owner, member);
          seen.set(member.owner, process.name);
          signs.set(member.owner, { member, untilMs: scheduler.nowMs + LIMITS.heartbeatTtlMs });
        }),
      read: () =>
        call(process, "members", () => {
          const members = livingFor(process);
          if (registry.faults.lie === 0 || !random.chance(registry.faults.lie)) return members;
          const lie = lieAbout(members);
          process.trace(`is lied to: alive are ${lie.map(({ owner }) => owner).join(", ")}`);
          return lie;
        }),
      leave: (owner) =>
        call(process, "leave", () => {
          signs.delete(owner);
        }),
      close: () => Promise.resolve(),
    }),
    outage(forMs) {
      awayUntilMs = Math.max(awayUntilMs, scheduler.nowMs + forMs);
    },
    restartEmpty() {
      signs = new Map();
    },
    hide(owner, forMs) {
      hidden.set(owner, Math.max(hidden.get(owner) ?? 0, scheduler.nowMs + forMs));
    },
  };
  return registry;
}
