// The handlers that the conformance suite asks for, by the `callable` of a step (tests/e2e/conformance/README.md).

import { appendFile, stat } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";

export class StepError extends Error {
  constructor(message, { type = "StepError", retryable = true, retryAfterSeconds = null } = {}) {
    super(message);
    Object.assign(this, { type, retryable, retryAfterSeconds });
  }
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const total = (ctx) => sum(Object.values(ctx.results).map((result) => result.value));
const exists = (path) => stat(path).then(() => true, () => false);

export const handlers = {
  "conformance.start": (ctx) => ({ value: ctx.context.n }),

  "conformance.add": (ctx) => ({ value: total(ctx) + (ctx.settings.add ?? 0) }),

  "conformance.multiply": (ctx) => ({ value: total(ctx) * ctx.settings.by }),

  "conformance.fail_until": (ctx) => {
    if (ctx.attempt < ctx.settings.attempt) throw new StepError("not yet", { type: "later" });
    return { value: ctx.attempt };
  },

  "conformance.refuse": () => {
    throw new StepError("never", { type: "refused", retryable: false });
  },

  "conformance.crash": () => {
    throw new TypeError("a mistake of the handler's own");
  },

  // JSON can carry it; PostgreSQL cannot.
  "conformance.unstorable": () => ({ text: "a\0b" }),

  "conformance.large": (ctx) => ({ value: 1, text: "x".repeat(ctx.settings.bytes) }),

  // Says that it runs, and waits until it may go on, or is told to stop.
  "conformance.wait": async (ctx) => {
    await appendFile(ctx.settings.started, `${ctx.taskUuid} ${ctx.attempt} ${ctx.fence}\n`);
    while (!(await exists(ctx.settings.until))) await delay(10, undefined, { signal: ctx.signal });
    return { value: ctx.context.n };
  },

  // As wait, but deaf: whatever happens, it answers in the end.
  "conformance.wait_deaf": async (ctx) => {
    await appendFile(ctx.settings.started, `${ctx.taskUuid} ${ctx.attempt} ${ctx.fence}\n`);
    while (!(await exists(ctx.settings.until))) await delay(10);
    return { value: ctx.context.n };
  },
};
