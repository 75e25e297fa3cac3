/**
 * What goes wrong in a run, drawn from its seed. Each run has some kinds of faults and not others,
 * so that now and then one kind has the stage for itself, and each kind comes a few times, at
 * moments that are drawn, too. Everything ends at `healMs`: then all that was promised for a
 * working cluster has to come true.
 */
import { LIMITS } from "../../src/limits.ts";
import type { Network } from "./bus.ts";
import { NO_BUS_FAULTS } from "./bus.ts";
import type { Cluster, GatewayMember, HostMember } from "./cluster.ts";
import type { Call, CallPlan, SimulatedDatabase } from "./database.ts";
import type { Registry } from "./membership.ts";
import type { Random } from "./random.ts";
import type { Process, Scheduler } from "./scheduler.ts";
import { NO_STREAM_FAULTS, type Stream } from "./stream.ts";

const KINDS = [
  "lossy bus",
  "slow bus",
  "shuffling bus",
  "bus outage",
  "cut off",
  "pause",
  "clock",
  "host crash",
  "crash at commit",
  "host leaves",
  "host twice",
  "lane ends",
  "gateway crash",
  "gateway leaves",
  "redis outage",
  "redis empty",
  "redis lies",
  "two owners",
  "database outage",
  "database errors",
  "slow database",
  "lost steps",
  "lossy stream",
  "slow stream",
  "stream outage",
  "crash at publish",
] as const;

export type FaultKind = (typeof KINDS)[number];

export interface FaultPlan {
  readonly kinds: ReadonlySet<FaultKind>;
  /** Faults begin and end, in milliseconds of the run. */
  readonly beginMs: number;
  readonly healMs: number;
  /** How much longer than usual each fault lasts. */
  readonly lengthen: number;
}

export interface FaultsDeps {
  readonly scheduler: Scheduler;
  readonly network: Network;
  readonly registry: Registry;
  readonly databases: readonly SimulatedDatabase[];
  readonly cluster: Cluster;
  readonly stream: Stream;
  readonly plan: FaultPlan;
  /** Processes that cannot read the shard table, and until when; for `databasePlanner`. */
  readonly blind: Map<string, number>;
  /** Counts what the run has met. */
  readonly count: (what: string) => void;
}

export function drawFaults(random: Random, isAlone: boolean): FaultPlan {
  const share = random.pick([0.1, 0.25, 0.5]);
  const kinds = new Set(KINDS.filter(() => random.chance(share)));
  // What the whole of the fencing is for.
  if (random.chance(0.3)) kinds.add("two owners");
  if (isAlone) {
    // Two hosts at a time are what must not be then.
    kinds.delete("two owners");
    kinds.delete("host twice");
  }
  const beginMs = random.pick([0, 4_000, 4_000]);
  // Some outlast every deadline.
  const isLong = random.chance(0.1);
  const lengthMs = isLong ? random.between(14_000, 22_000) : random.between(4_000, 10_000);
  return { kinds, beginMs, healMs: beginMs + lengthMs, lengthen: isLong ? 6 : 1 };
}

/** Sets the faults off; they end by themselves. */
export function unleash(deps: FaultsDeps): void {
  const { scheduler, network, registry, databases, cluster, stream, plan } = deps;
  const random = scheduler.random.stream("faults");
  const { kinds, beginMs, healMs, lengthen } = plan;
  const leftMs = (): number => Math.max(0, healMs - scheduler.nowMs);
  /** A length of time that is over when the faults are. */
  const lasting = (fromMs: number, toMs: number): number =>
    Math.min(random.between(fromMs, toMs) * lengthen, leftMs());

  /** Again and again, with pauses around `everyMs`. */
  function now(kind: FaultKind, everyMs: number, task: () => void): void {
    if (!kinds.has(kind)) return;
    const pauseMs = random.between(0.2, 1.8) * everyMs;
    scheduler.after(pauseMs, kind, () => {
      if (scheduler.nowMs >= healMs) return;
      deps.count(`faults: ${kind}`);
      task();
      now(kind, everyMs, task);
    });
  }

  const upHosts = (): HostMember[] => cluster.hosts.filter(({ state }) => state !== "down");
  const anyHost = (then: (member: HostMember) => void): void => {
    const up = upHosts();
    if (up.length > 0) then(random.pick(up));
  };
  const anyGateway = (then: (member: GatewayMember) => void): void => {
    const up = cluster.gateways.filter(({ state }) => state === "up");
    if (up.length > 0) then(random.pick(up));
  };
  const anyMember = (then: (member: HostMember | GatewayMember) => void): void => {
    if (random.chance(0.75)) anyHost(then);
    else anyGateway(then);
  };

  function restartSoon(member: HostMember | GatewayMember): void {
    const start = (): void => {
      if (member.state === "up") return;
      // One that is leaving is left to it.
      if (member.state === "leaving") scheduler.after(200, "restart", start);
      else if (member.name.startsWith("host")) cluster.startHost(member as HostMember);
      else cluster.startGateway(member as GatewayMember);
    };
    scheduler.after(lasting(20, 5_000), "restart", start);
  }

  scheduler.after(beginMs, "faults begin", () => {
    if (kinds.has("lossy bus")) {
      network.faults.drop = random.pick([0.005, 0.03, 0.12]);
      network.faults.repeat = random.pick([0.005, 0.05, 0.2]);
      network.faults.repeatMsMax = random.pick([5, 300, 4_000]);
    }
    if (kinds.has("slow bus")) {
      network.faults.delayMs = random.pick([
        [0.1, 5],
        [5, 60],
      ]);
      network.faults.stall = random.pick([0.01, 0.05]);
      network.faults.stallMsMax = random.pick([100, 1_500]);
    }
    if (kinds.has("shuffling bus")) {
      network.faults.shuffle = 0.3;
      if (!kinds.has("slow bus")) network.faults.delayMs = [0.1, random.pick([5, 200])];
    }
    if (kinds.has("lost steps")) network.faults.dropSteps = random.pick([0.2, 0.6]);
    if (kinds.has("lossy stream")) {
      stream.faults.lose = random.pick([0.01, 0.1]);
      stream.faults.loseAck = random.pick([0.01, 0.1]);
    }
    if (kinds.has("slow stream")) {
      stream.faults.stall = random.pick([0.02, 0.2]);
      stream.faults.stallMsMax = random.pick([300, 3_000, 8_000]);
    }
    if (kinds.has("redis lies")) registry.faults.lie = random.pick([0.02, 0.3]);
    now("two owners", 1_500, () => {
      const owning = upHosts().filter(({ run }) => run!.host.status().shards.length > 0);
      for (const { run } of owning.length > 0 ? [random.pick(owning)] : []) {
        if (run === null) return;
        // Long enough for the others to take its shards over, which it does not see: both serve
        // them.
        const forMs = lasting(3_000, 9_000);
        run.process.trace(`is hidden from the others and blind for ${forMs.toFixed(0)} ms`);
        registry.hide(run.owner, forMs);
        const { name } = run.process;
        deps.blind.set(name, Math.max(deps.blind.get(name) ?? 0, scheduler.nowMs + forMs));
      }
    });
    now("redis outage", 2_500, () => registry.outage(lasting(100, 6_000)));
    now("stream outage", 2_000, () => stream.outage(lasting(20, 3_000)));
    now("redis empty", 2_000, () => registry.restartEmpty());
    now("bus outage", 2_000, () => network.outage(lasting(50, 2_500)));
    now("cut off", 1_000, () => {
      anyMember(({ run }) => run?.bus.cutOff(lasting(50, 5_000), random.between(100, 4_500)));
    });
    now("pause", 1_000, () => {
      anyMember(({ run }) => {
        const forMs = lasting(50, 6_000);
        run?.process.trace(`is paused for ${forMs.toFixed(0)} ms`);
        run?.process.pause(forMs);
      });
    });
    now("clock", 1_000, () => {
      anyMember((member) => cluster.stepClock(member, random.between(-20_000, 20_000)));
    });
    now("host crash", 1_500, () => {
      anyHost((member) => {
        cluster.crashHost(member);
        restartSoon(member);
      });
    });
    now("host leaves", 1_500, () => {
      anyHost((member) => {
        cluster.leaveHost(member);
        restartSoon(member);
      });
    });
    now("host twice", 2_500, () => {
      anyHost((member) => {
        const former = cluster.replaceHost(member);
        if (former !== null) scheduler.after(lasting(100, 8_000), "twin ends", () => former.kill());
      });
    });
    now("lane ends", 600, () => anyHost(({ run }) => run?.lanes.killOne()));
    now("gateway crash", 2_000, () => {
      anyGateway((member) => {
        cluster.crashGateway(member);
        restartSoon(member);
      });
    });
    now("gateway leaves", 3_000, () => {
      anyGateway((member) => {
        cluster.leaveGateway(member);
        restartSoon(member);
      });
    });
    now("database outage", 1_500, () => {
      const database = random.pick(databases);
      if (database.isAway) return;
      scheduler.trace(database.name, "goes away");
      database.goAway();
      scheduler.after(lasting(20, 2_500), "database back", () => {
        scheduler.trace(database.name, "comes back");
        database.comeBack();
      });
    });
  });

  scheduler.after(healMs, "faults end", () => {
    scheduler.trace("world", "the faults end");
    network.faults = { ...NO_BUS_FAULTS };
    registry.faults = { lie: 0, fail: 0 };
    stream.faults = { ...NO_STREAM_FAULTS };
    const members = [...cluster.hosts, ...cluster.gateways];
    if (kinds.has("clock")) for (const member of members) cluster.rightClock(member);
    for (const member of cluster.hosts) if (member.state === "down") cluster.startHost(member);
    for (const member of cluster.gateways) {
      if (member.state === "down") cluster.startGateway(member);
      else if (member.state === "leaving") restartSoon(member);
    }
    for (const member of cluster.hosts) if (member.state === "leaving") restartSoon(member);
  });
}

/**
 * Now and then a host crashes between what it has published and the cursor that would tell of it.
 */
export function publisherCrashes(
  scheduler: Scheduler,
  { kinds, beginMs, healMs }: FaultPlan,
  crashCaller: (name: string) => void,
): (publisher: Process) => void {
  const random = scheduler.random.stream("publishers");
  const crashes = random.pick([0.01, 0.05]);
  return ({ name }) => {
    const isFaulty = scheduler.nowMs >= beginMs && scheduler.nowMs < healMs;
    if (!isFaulty || !kinds.has("crash at publish") || !random.chance(crashes)) return;
    const afterMs = random.between(0, 1.5 * LIMITS.relaySaveMs);
    scheduler.after(afterMs, "crash at publish", () => crashCaller(name));
  };
}

/** How each call to a database goes: quick when all is well. */
export function databasePlanner(
  scheduler: Scheduler,
  plan: FaultPlan,
  blind: ReadonlyMap<string, number>,
  crashCaller: (name: string) => void,
): (call: Call) => CallPlan {
  const random = scheduler.random.stream("database");
  const { kinds, beginMs, healMs } = plan;
  const errors = random.pick([0.01, 0.1]);
  const crashes = random.pick([0.005, 0.03]);
  const slow = random.pick([0.02, 0.2]);
  return ({ kind, caller }) => {
    const isFaulty = scheduler.nowMs >= beginMs && scheduler.nowMs < healMs;
    const isSlow = isFaulty && kinds.has("slow database") && random.chance(slow);
    const pace = isSlow ? random.pick([10, 200]) : 1;
    const requestMs = random.between(0.1, 0.6) * pace;
    const commitMs =
      kind === "append" ? random.between(0.3, 2.5) * pace : random.between(0.05, 0.3);
    const answerMs = random.between(0.1, 0.6) * pace;
    if (isFaulty && kind === "append" && kinds.has("crash at commit") && random.chance(crashes)) {
      const isBefore = random.chance(0.4);
      const committedMs = requestMs + commitMs;
      const atMs = committedMs + (isBefore ? -0.01 : random.between(0.001, answerMs));
      scheduler.after(atMs, "crash at commit", () => crashCaller(caller));
    }
    const isBlind = kind === "read shards" && (blind.get(caller) ?? 0) > scheduler.nowMs;
    if (isBlind) return { requestMs, commitMs, answerMs, fault: "refused" };
    const isFailing = isFaulty && kinds.has("database errors") && random.chance(errors);
    const fault = isFailing
      ? random.pick(["refused", "lost before commit", "lost after commit"] as const)
      : null;
    return { requestMs, commitMs, answerMs, fault };
  };
}
