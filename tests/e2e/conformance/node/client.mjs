// A client in JavaScript: creates tasks, by SQL or by message, and follows them. Prints one JSON value.
//
//   node client.mjs create  NAMESPACE NAME CONTEXT [IDENTITY_KEY]   tasker.create_tasks
//   node client.mjs request NAMESPACE NAME CONTEXT [IDENTITY_KEY]   a message on task_requests_queue
//   node client.mjs wait    TASK_UUID                               until it has finished; its state
//   node client.mjs cancel  TASK_UUID

import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { Session } from "./session.mjs";

const FINISHED = ["complete", "error", "cancelled", "resolved_manually"];

const commands = {
  // Safe to repeat only with a key: the second time it is the same task.
  async create(session, namespace, name, context, key) {
    const request = { namespace, name, context: JSON.parse(context), ...(key && { identity_key: key }) };
    const text = "SELECT tasker.create_tasks(ARRAY[$1::jsonb]) AS tasks";
    const [{ tasks }] = await session.query(text, [JSON.stringify(request)]);
    return tasks[0];
  },

  async request(session, namespace, name, context, key) {
    const request = { namespace, name, context: JSON.parse(context), ...(key && { identity_key: key }) };
    await session.query("SELECT pgmq.send('task_requests_queue', $1::jsonb)", [JSON.stringify(request)]);
    await session.query("SELECT tasker.notify(ARRAY['tasker_task_requests_queue'])");
    return {};
  },

  async wait(session, task) {
    const channel = `tasker_w_${randomBytes(8).toString("hex")}`;
    let wake = () => {};
    const ears = new Session("client ears", { channels: [channel], heard: () => wake() });
    await ears.open();
    try {
      for (;;) {
        const heard = new Promise((resolve) => (wake = resolve));
        await session.query("SELECT tasker.add_waiter($1, 60)", [channel]);
        const [row] = await session.query("SELECT state FROM tasker.tasks WHERE task_uuid = $1", [task]);
        if (!row || FINISHED.includes(row.state)) return { state: row?.state ?? null };
        // A notification is a hint: look now and then all the same.
        await Promise.race([heard, delay(5000)]);
      }
    } finally {
      await session.query("SELECT tasker.remove_waiter($1)", [channel]);
      await ears.close();
    }
  },

  async cancel(session, task) {
    return await session.call("cancel_tasks", { task_uuids: [task], by: "client.mjs", reason: "asked to" });
  },
};

const [command, ...rest] = process.argv.slice(2);
const session = new Session("client");
try {
  console.log(JSON.stringify(await commands[command](session, ...rest)));
} catch (error) {
  console.log(JSON.stringify({ sqlstate: error.sqlstate ?? null, message: error.message, hint: error.hint ?? null }));
  process.exitCode = 1;
}
await session.close();
process.exit();
