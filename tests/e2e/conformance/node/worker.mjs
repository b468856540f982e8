// A worker in JavaScript: it runs steps of Tasker's workflows, and all it knows of Tasker is the SQL contract
// (docs/reference/contract.md). It is what the conformance suite runs, and meant to be read by whoever writes another.
//
//   PGHOST=… PGDATABASE=… PGUSER=… node worker.mjs
//
// TASKER_QUEUES            the queues it serves: "partner_queue,other_queue"
// TASKER_WORKER            its name
// TASKER_HEARTBEAT_SECONDS how often it says that it lives
// TASKER_GRACE_SECONDS     how long running steps may go on after SIGTERM
// TASKER_POLL_SECONDS      longest time between two looks at the queues; a notification ends it early
// TASKER_ANSWER_BY         "call" (complete_steps), or "message" (the queue orchestration_step_results)

import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { handlers, StepError } from "./handlers.mjs";
import { Ledger } from "./ledger.mjs";
import { GaveUp, isBadValue, isLost, isTooLate, Session } from "./session.mjs";

const env = (name, fallback) => process.env[name] ?? fallback;
const QUEUES = env("TASKER_QUEUES", "").split(",").filter(Boolean);
const WORKER = env("TASKER_WORKER", `node@${process.pid}`);
const HEARTBEAT_SECONDS = Number(env("TASKER_HEARTBEAT_SECONDS", "3"));
const GRACE_SECONDS = Number(env("TASKER_GRACE_SECONDS", "10"));
const POLL_SECONDS = Number(env("TASKER_POLL_SECONDS", "5"));
const BY_MESSAGE = env("TASKER_ANSWER_BY", "call") === "message";

const BATCH = 20; // most steps at once
const BUDGET_MS = 50; // what they may be expected to take together, beyond the first
const MAX_RESULT_BYTES = 1 << 20; // system.max_result_bytes
const BUSY_LOCK_TIMEOUT_MS = 1000;
const GOOD_BYE_SECONDS = 2; // to report, release and deregister once the grace period is over
const FIRST_LOOKS_SECONDS = [0.02, 0.1]; // after going idle: what was sent while the flag was being set was not notified

const log = (event, details = {}) => console.log(JSON.stringify({ event, ...details }));
const key = ({ task_uuid, position, map_index, fence }) => ({ task_uuid, position, map_index, fence });
const idOf = (step) => `${step.task_uuid} ${step.position} ${step.map_index} ${step.fence}`;

// One life of this worker in the database. Once it is declared lost there is no way back: what it held is others' by now.
class Incarnation {
  executor = randomUUID();
  ledger = new Ledger();
  held = new Map(); // id of a step → the step, while it runs here
  sent = new Map(); // likewise, once its outcome has been sent as a message and nobody has taken that yet
  lost = false;
}

class Worker {
  #me = new Incarnation();
  #templates = new Map(); // named_task_id → a version of a workflow, which never changes once it is used
  #outcomes = [];
  #busy = [];
  #durations = new Map(); // "named_task_id:position" → milliseconds of the last run
  #beating = false;
  #flushing = null;
  #stopping = false;
  #graceEnds = Infinity;
  #wake = () => {};
  #woken = false;

  constructor() {
    const giveUp = () => Date.now() > this.#graceEnds;
    this.calls = new Session("worker calls", { giveUp });
    this.completions = new Session("worker completions", { giveUp });
    this.setAside = new Session("worker set aside", { giveUp });
    // Heartbeats have a connection of their own, and that listens, too: a long call must not make us look dead.
    this.signs = new Session("worker signs", {
      giveUp,
      channels: QUEUES.map((queue) => `tasker_${queue}`),
      heard: () => this.wake(),
    });
  }

  wake() {
    this.#woken = true;
    this.#wake();
  }

  stop(reason) {
    if (this.#stopping) return;
    log("stopping", { reason });
    this.#stopping = true;
    this.#graceEnds = Date.now() + GRACE_SECONDS * 1000;
    this.wake();
  }

  async run() {
    await this.signs.open();
    await this.#register();
    const heart = setInterval(() => this.#beat(), HEARTBEAT_SECONDS * 1000);
    try {
      let empty = 0;
      let idle = null; // the incarnation that has said so
      while (!this.#stopping) {
        this.#woken = false;
        const me = this.#me;
        const { taken, nextDue } = await this.#claim();
        if (taken > 0) {
          empty = 0;
          if (idle === me) await this.#setIdle(me, false);
          idle = null;
          continue;
        }
        if (me !== this.#me) continue; // lost, and born again
        if (idle !== me) {
          await this.#setIdle(me, true);
          idle = me;
          empty = 0;
        }
        const pause = FIRST_LOOKS_SECONDS[empty++] ?? Math.min(POLL_SECONDS, 0.1 * 2 ** Math.min(empty, 12));
        await this.#rest(Math.min(pause, nextDue ?? Infinity));
      }
      await this.#end();
    } finally {
      clearInterval(heart);
      for (const session of [this.calls, this.completions, this.setAside, this.signs]) await session.close();
    }
    log("stopped");
  }

  // -- the incarnation ----------------------------------------------------------------------------------------------

  async #register() {
    const { executor } = this.#me;
    await this.calls.call("register_executor", {
      executor, kind: "step_executor", worker: WORKER, queues: QUEUES, pid: process.pid,
    });
    log("registered", { executor });
  }

  // TK006: drop all that was held, and begin again under another name.
  async #onLost(me) {
    if (me.lost) return;
    me.lost = true;
    log("lost", { executor: me.executor });
    for (const step of me.held.values()) step.abort("the executor was declared lost");
    this.#me = new Incarnation();
    await this.#register();
    this.wake();
  }

  async #beat() {
    if (this.#beating) return; // the last one is still on its way
    this.#beating = true;
    try {
      await this.#lookAfterSent(this.#me);
      await this.#sendHeartbeat(this.#me);
    } catch (error) {
      log("heartbeat failed", { message: error.message });
    } finally {
      this.#beating = false;
    }
  }

  async #sendHeartbeat(me) {
    const request = {
      executor: me.executor,
      oldest_call_no: me.ledger.oldest(),
      expected_ms: Object.fromEntries(this.#durations),
    };
    this.#durations.clear();
    let answer;
    try {
      answer = await this.signs.call("heartbeat", request);
    } catch (error) {
      if (isLost(error)) return this.#onLost(me);
      throw error;
    }
    for (const lost of answer.steps_lost) {
      const step = me.held.get(idOf(lost));
      if (step) {
        log("taken away", { ...key(lost), reason: lost.reason });
        this.#settle(step);
        step.abort(lost.reason);
      }
    }
    if (answer.stop_requested) this.stop("asked in the database");
  }

  async #setIdle(me, idle) {
    await this.calls.call("set_executor_idle", { executor: me.executor, idle });
  }

  async #rest(seconds) {
    if (this.#woken || this.#stopping) return;
    let timer;
    await new Promise((resolve) => {
      this.#wake = resolve;
      timer = setTimeout(resolve, seconds * 1000);
    });
    clearTimeout(timer);
    this.#wake = () => {};
  }

  // -- taking steps -------------------------------------------------------------------------------------------------

  async #claim() {
    const me = this.#me;
    const room = BATCH - me.held.size;
    if (room <= 0) return { taken: 0 };
    const { callNo, finished } = me.ledger.open();
    let answer;
    try {
      answer = await this.calls.call("claim_steps", {
        executor: me.executor, call_no: callNo, queues: QUEUES, limit: room, budget_ms: BUDGET_MS, finished,
        known_templates: [...this.#templates.keys()],
      });
    } catch (error) {
      me.ledger.failed(callNo, finished);
      if (isLost(error)) {
        await this.#onLost(me);
        return { taken: 0 };
      }
      throw error;
    }
    const taken = this.#take(me, callNo, answer);
    if (answer.stop_requested) this.stop("asked in the database");
    return { taken, nextDue: answer.next_due_seconds };
  }

  // Start what an answer of claim_steps or complete_steps brought.
  #take(me, callNo, answer) {
    for (const [id, template] of Object.entries(answer.templates)) this.#templates.set(Number(id), template);
    me.ledger.answered(callNo, answer.steps.length);
    for (const claimed of answer.steps) {
      const template = this.#templates.get(claimed.template);
      const step = {
        ...claimed,
        me,
        callNo,
        definition: template.steps[claimed.position],
        names: template.steps.map((each) => each.name),
        task: answer.tasks[claimed.task_uuid],
        parents: answer.results[claimed.task_uuid] ?? {},
        controller: new AbortController(),
        settled: false,
      };
      step.abort = (reason) => step.controller.abort(new Error(reason));
      me.held.set(idOf(step), step);
      this.#runStep(step);
    }
    return answer.steps.length;
  }

  // -- running them -------------------------------------------------------------------------------------------------

  async #runStep(step) {
    let timer;
    try {
      if (!step.definition.retryable && !(await this.#markStarted(step))) {
        log("not started", key(step));
        this.#settle(step);
        return;
      }
      const handler = handlers[step.definition.handler.callable];
      if (!handler) throw new StepError(`no handler ${step.definition.handler.callable} here`, { type: "HandlerNotFound" });
      const seconds = step.definition.timeout_seconds;
      if (seconds !== null) {
        timer = setTimeout(() => {
          const message = `step ${step.definition.name} took longer than its timeout of ${seconds} s`;
          this.#report(step, { status: "error", error: { message, type: "timeout", timeout: true } });
          step.abort("timeout");
        }, seconds * 1000);
      }
      const begun = performance.now();
      const results = (await handler(await this.#context(step))) ?? null;
      this.#durations.set(`${step.template}:${step.position}`, performance.now() - begun);
      const bytes = Buffer.byteLength(JSON.stringify(results));
      if (bytes > MAX_RESULT_BYTES) {
        throw new StepError(`the result is ${bytes} bytes of JSON`, { type: "result_too_large", retryable: false });
      }
      this.#report(step, { status: "complete", results });
    } catch (error) {
      if (isLost(error)) return await this.#onLost(step.me);
      this.#report(step, {
        status: "error",
        error: {
          message: String(error.message ?? error),
          type: error.type ?? error.name ?? "Error",
          retryable: error.retryable ?? true,
          retry_after_seconds: error.retryAfterSeconds ?? null,
        },
      });
    } finally {
      clearTimeout(timer);
    }
  }

  // A step that may not run twice: the mark is committed before its handler begins.
  async #markStarted(step) {
    const answer = await this.calls.call("mark_steps_started", { executor: step.me.executor, steps: [key(step)] });
    return answer.started[0];
  }

  async #context(step) {
    const results = {};
    const take = (page) => {
      for (const [position, result] of Object.entries(page)) {
        if (step.definition.depends_on.includes(Number(position))) results[step.names[position]] = result;
      }
    };
    take(step.parents);
    if (step.results_paged) {
      for (let after = -1; after !== null; ) {
        const text = "SELECT tasker.get_parent_results($1, $2, $3, $4) AS page";
        const [{ page }] = await this.calls.query(text, [step.task_uuid, step.step_uuid, after, 2]);
        take(page.results);
        after = page.next_after;
      }
    }
    return {
      taskUuid: step.task_uuid,
      attempt: step.attempt,
      fence: step.fence,
      context: step.task.context,
      settings: step.definition.handler.initialization ?? {},
      results,
      signal: step.controller.signal,
    };
  }

  // -- reporting them -----------------------------------------------------------------------------------------------

  // The one outcome of a step. Whoever comes second (the handler after its timeout, say) is not heard.
  #report(step, outcome) {
    if (step.settled || step.me.lost) return;
    step.settled = true;
    step.me.held.delete(idOf(step));
    this.#outcomes.push({ step, outcome });
    this.#flush();
  }

  // The step is not ours any more, without an outcome of ours.
  #settle(step) {
    if (step.settled) return;
    step.settled = true;
    step.me.held.delete(idOf(step));
    step.me.ledger.settled(step.callNo);
  }

  // What has gathered goes out together, while the next gathers behind it.
  #flush() {
    this.#flushing ??= (async () => {
      await null; // what is reported in the same breath comes along
      while (this.#outcomes.length) {
        const batch = this.#outcomes.splice(0);
        for (const me of new Set(batch.map(({ step }) => step.me))) {
          const mine = batch.filter(({ step }) => step.me === me);
          await (BY_MESSAGE ? this.#send(mine) : this.#complete(this.completions, me, mine));
        }
      }
    })()
      .catch((error) => {
        if (!(error instanceof GaveUp)) throw error;
        log("gave up", { message: error.message }); // the sweep gives the steps to others
      })
      .finally(() => {
        this.#flushing = null;
        if (this.#outcomes.length) this.#flush();
        this.wake();
      });
  }

  async #complete(session, me, batch, { wait = false } = {}) {
    if (me.lost || batch.length === 0) return;
    const { callNo, finished } = me.ledger.open();
    const request = {
      executor: me.executor, call_no: callNo, queues: QUEUES, finished, budget_ms: BUDGET_MS,
      known_templates: [...this.#templates.keys()],
      continue_limit: this.#stopping || wait ? 0 : Math.max(0, Math.min(BATCH - me.held.size, BATCH / 2)),
      wait,
      outcomes: batch.map(({ step, outcome }) => ({
        ...key(step), step_uuid: step.step_uuid, may_continue: true, ...outcome,
      })),
    };
    let answer;
    try {
      answer = await session.call("complete_steps", request, wait ? { lockTimeoutMs: BUSY_LOCK_TIMEOUT_MS } : {});
    } catch (error) {
      me.ledger.failed(callNo, finished);
      if (isLost(error)) return this.#onLost(me);
      if (isTooLate(error)) return this.#complete(session, me, batch, { wait }); // a heartbeat overtook this number
      if (error.sqlstate === "55P03" && wait) return this.#putAside(batch); // still locked
      if (!isBadValue(error)) throw error;
      if (batch.length === 1) {
        const error_ = { message: `PostgreSQL cannot store it: ${error.message}`, type: "result_not_storable", retryable: false };
        if (batch[0].outcome.error?.type === error_.type) throw error; // not the value, then
        return this.#complete(session, me, [{ step: batch[0].step, outcome: { status: "error", error: error_ } }], { wait });
      }
      const middle = batch.length >> 1;
      await this.#complete(session, me, batch.slice(0, middle), { wait });
      return this.#complete(session, me, batch.slice(middle), { wait });
    }
    // First what came, then what went: the number may not be let go while its steps are not yet counted.
    this.#take(me, callNo, answer);
    answer.outcomes.forEach((reply, index) => {
      const { step } = batch[index];
      if (reply.answer === "busy") return this.#putAside([batch[index]]);
      if (reply.answer === "stale") log("stale", { ...key(step), reason: reply.reason });
      else log(reply.state, { ...key(step), repeated: reply.reason === "repeated" });
      me.ledger.settled(step.callNo);
    });
    const channels = [...answer.queues.map((queue) => `tasker_${queue}`), ...answer.notify];
    if (channels.length) await session.query("SELECT tasker.notify($1)", [channels]);
  }

  // Somebody else holds the task: wait for it apart from all others, one task per call.
  #putAside(batch) {
    for (const one of batch) {
      log("busy", key(one.step));
      const work = this.#complete(this.setAside, one.step.me, [one], { wait: true })
        .catch((error) => log("gave up", { message: error.message }))
        .finally(() => this.#busy.splice(this.#busy.indexOf(work), 1));
      this.#busy.push(work);
    }
  }

  // -- answering by message -----------------------------------------------------------------------------------------

  async #send(batch) {
    for (const { step, outcome } of batch) {
      const message = { ...key(step), step_uuid: step.step_uuid, executor: step.me.executor, ...outcome };
      // Should the connection be cut, the message may be sent twice: the second is a no-op.
      await this.completions.query("SELECT pgmq.send('orchestration_step_results', $1::jsonb)", [JSON.stringify(message)]);
      step.me.sent.set(idOf(step), step);
    }
    await this.completions.query("SELECT tasker.notify(ARRAY['tasker_orchestration_step_results'])");
  }

  // The receipt stays ours until the message was taken: whoever lets it go before has the step run twice.
  async #lookAfterSent(me) {
    for (const [id, step] of me.sent) {
      const [row] = await this.signs.query(
        "SELECT state = 'in_progress' AND fence = $4 AS open FROM tasker.workflow_steps" +
          " WHERE task_uuid = $1 AND position = $2 AND map_index = $3",
        [step.task_uuid, step.position, step.map_index, step.fence],
      );
      if (row?.open) continue;
      me.sent.delete(id);
      me.ledger.settled(step.callNo);
    }
  }

  // -- the end ------------------------------------------------------------------------------------------------------

  async #end() {
    const me = this.#me;
    while (me.held.size && Date.now() < this.#graceEnds) await delay(20);
    // What still runs is given back without spending its attempt, unless it may not run twice.
    const released = [];
    for (const step of me.held.values()) {
      if (step.definition.retryable) {
        step.settled = true;
        released.push(step);
      } else {
        const message = "the worker stopped while the step ran, and it may not run twice";
        this.#report(step, { status: "error", error: { message, type: "outcome_unknown", retryable: false } });
      }
      step.abort("the worker stops");
    }
    this.#graceEnds = Date.now() + GOOD_BYE_SECONDS * 1000;
    if (released.length) {
      const request = { executor: me.executor, steps: released.map(key), finished: me.ledger.takeFinished() };
      const answer = await this.calls.call("release_steps", request);
      for (const step of released) me.ledger.settled(step.callNo);
      log("released", { released: answer.released });
    }
    while (this.#flushing || this.#busy.length) await Promise.all([this.#flushing, ...this.#busy]);
    while (me.sent.size && Date.now() < this.#graceEnds) {
      await this.#lookAfterSent(me);
      await delay(20);
    }
    if (!me.lost) await this.calls.call("deregister_executor", { executor: me.executor, finished: me.ledger.takeFinished() });
  }
}

const worker = new Worker();
process.on("SIGTERM", () => worker.stop("SIGTERM"));
process.on("SIGINT", () => worker.stop("SIGINT"));
try {
  await worker.run();
} catch (error) {
  console.error(error);
  process.exitCode = 1;
}
// Handlers that are deaf to their signal do not keep the process.
process.exit();
