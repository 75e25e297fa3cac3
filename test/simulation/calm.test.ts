/** The watch over a calm: whom it takes for forgotten, and whom it does not. */
import { expect, test } from "vitest";
import type { CommandMessage, Reply } from "../../src/core/protocol.ts";
import type { WalletCommand } from "../../src/core/wallet.ts";
import { buildNetwork } from "./bus.ts";
import { watchCalm } from "./calm.ts";
import { buildScheduler } from "./scheduler.ts";

const UNTIL_MS = 4_000;
const DEBIT = { type: "debit", amount: "1" } as const;
const TRANSFER = { type: "transfer", transferId: "t", toWalletId: "w2", amount: "1" } as const;
const TO = { transferId: "t", walletId: "w2" };
const CAPTURE = { type: "capture", holdId: "h", amount: "1", final: false, to: null } as const;
const CAPTURE_TO_WALLET = { ...CAPTURE, to: TO };

interface Case {
  readonly body?: WalletCommand;
  readonly sentAtMs?: number;
  /** Null: never. */
  readonly answeredInMs: number | null;
}

/** What is told of one command, sent to a host that answers after a while. */
async function toldOf({ body = DEBIT, sentAtMs = 1_000, answeredInMs }: Case): Promise<string[]> {
  const scheduler = buildScheduler(1, { trace: false });
  const network = buildNetwork(scheduler, scheduler.random.stream("bus"));
  const host = network.connect(scheduler.process("host"));
  const bus = network.connect(scheduler.process("gateway"));
  const told: string[] = [];
  const onProblem = (text: string): void => void told.push(text);
  const calm = watchCalm({ bus, scheduler, untilMs: UNTIL_MS, onProblem });
  let replies = 0;
  calm.subscribe<readonly Reply[]>("inbox", (some) => void (replies += some.length));
  host.subscribe<readonly CommandMessage[]>("shard", ([message]) => {
    if (answeredInMs === null) return;
    const reply: Reply = {
      inbox: "inbox",
      seq: message!.seq,
      outcome: { type: "fault", fault: "unavailable" },
    };
    scheduler.after(answeredInMs, "answers", () => host.publish("inbox", [reply]));
  });
  const command = { commandId: "key-1", walletId: "w1", body };
  scheduler.after(sentAtMs, "sends", () => calm.publish("shard", [{ seq: 32, command }]));
  await scheduler.run(2 * UNTIL_MS);
  expect(replies).toBe(answeredInMs === null ? 0 : 1);
  return told;
}

test.each<[string, Case]>([
  ["is answered soon", { answeredInMs: 300 }],
  ["is a transfer, which may take longer", { body: TRANSFER, answeredInMs: 1_400 }],
  [
    "is a capture for a wallet, which is a transfer",
    { body: CAPTURE_TO_WALLET, answeredInMs: 1_400 },
  ],
  ["comes before the callers begin", { sentAtMs: 100, answeredInMs: 1_000 }],
  ["is due when the faults have begun", { sentAtMs: 3_900, answeredInMs: null }],
])("a command is not forgotten that %s", async (_, given) => {
  expect(await toldOf(given)).toEqual([]);
});

test.each<[string, Case]>([
  ["is answered late", { answeredInMs: 600 }],
  ["is answered when the calm is over", { answeredInMs: 5_000 }],
  ["is never answered", { answeredInMs: null }],
  ["is a capture that is answered late", { body: CAPTURE, answeredInMs: 600 }],
  ["is a transfer that is answered very late", { body: TRANSFER, answeredInMs: 1_600 }],
])("a command is forgotten that %s", async (_, given) => {
  expect(await toldOf(given)).toEqual([expect.stringContaining("nobody answered key-1, ")]);
});

test("what reached nobody is not waited for", async () => {
  const scheduler = buildScheduler(1, { trace: false });
  const network = buildNetwork(scheduler, scheduler.random.stream("bus"));
  const bus = network.connect(scheduler.process("gateway"));
  const told: string[] = [];
  const onProblem = (text: string): void => void told.push(text);
  const calm = watchCalm({ bus, scheduler, untilMs: UNTIL_MS, onProblem });
  let taken = 0;
  const command = { commandId: "key-1", walletId: "w1", body: DEBIT };
  scheduler.after(1_000, "sends", () => {
    calm.publish("shard", [{ seq: 32, command }], () => void (taken += 1));
  });
  await scheduler.run(2 * UNTIL_MS);
  expect({ taken, told }).toEqual({ taken: 1, told: [] });
});
