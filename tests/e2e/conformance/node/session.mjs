// One connection to PostgreSQL that is made again when it is lost, and the calls made over it.
//
// A call whose answer was lost is repeated as it is, with the same call_no: the SQL core recognizes it, and what was done
// the first time is not done again. That is all there is to surviving a cut connection.

import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";

// Rolled back for a reason that passes: serialization, deadlock, lock timeout, cancelled by a timeout.
const PASSING = new Set(["40001", "40P01", "55P03", "57014"]);
// Connected, but refused for good: wrong password, no such database, no right to it.
const HOPELESS = new Set(["28", "3D", "42"]);

export const isLost = (error) => error.sqlstate === "TK006";
export const isTooLate = (error) => error.sqlstate === "TK008";
// A value that PostgreSQL cannot store, or that the SQL core refuses: the others of its batch may pass without it.
export const isBadValue = (error) => ["TK001", "TK011"].includes(error.sqlstate) || ["22", "23", "54"].includes(classOf(error));

const classOf = (error) => error.sqlstate?.slice(0, 2);

function isPassing(error) {
  const sqlstate = error.sqlstate;
  if (sqlstate === undefined) return true; // the network: not a word from the server
  return PASSING.has(sqlstate) || ["08", "53"].includes(classOf(error)) || /^57P0[1-3]$/.test(sqlstate);
}

export class GaveUp extends Error {}

export class Session {
  #client = null;
  #turn = Promise.resolve();

  // name: as pg_stat_activity shows it. giveUp: asked before each new attempt. channels: to LISTEN on, heard: called then.
  constructor(name, { giveUp = () => false, channels = [], heard = () => {} } = {}) {
    Object.assign(this, { name, giveUp, channels, heard });
  }

  // tasker.<name>(request); the answer is one JSON value. lockTimeoutMs: fail (55P03) instead of waiting longer for a lock.
  call(name, request, { lockTimeoutMs } = {}) {
    return this.#inTurn(() =>
      this.#repeat(
        async (client) => {
          if (lockTimeoutMs === undefined) return answerOf(await client.query(...statement(name, request)));
          await client.query("BEGIN");
          try {
            await client.query(`SET LOCAL lock_timeout = ${lockTimeoutMs}`);
            const answer = answerOf(await client.query(...statement(name, request)));
            await client.query("COMMIT");
            return answer;
          } catch (error) {
            await client.query("ROLLBACK").catch(() => {});
            throw error;
          }
        },
        (error) => isPassing(error) && !(lockTimeoutMs !== undefined && error.sqlstate === "55P03"),
      ),
    );
  }

  // Any other statement; repeated likewise, so it must be one that may be.
  query(text, values = []) {
    return this.#inTurn(() => this.#repeat(async (client) => (await client.query(text, values)).rows, isPassing));
  }

  // Connect now, so that what is LISTENed for is heard from here on.
  open() {
    return this.query("SELECT 1");
  }

  async close() {
    const client = this.#client;
    this.#client = null;
    await client?.end().catch(() => {});
  }

  #inTurn(work) {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => {});
    return mine;
  }

  async #repeat(work, repeats) {
    for (let pause = 50; ; pause = Math.min(pause * 2, 2000)) {
      try {
        return await work(await this.#open());
      } catch (caught) {
        const error = withSqlstate(caught);
        if (!repeats(error) || HOPELESS.has(classOf(error))) throw error;
        console.error(`${this.name}: ${error.message}; again in ${pause} ms`);
        if (!error.sqlstate || error.sqlstate.startsWith("57P")) await this.close();
        if (this.giveUp()) throw new GaveUp(error.message);
        await delay(pause * (0.5 + Math.random() / 2));
      }
    }
  }

  async #open() {
    if (this.#client) return this.#client;
    // Where to connect is in PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSWORD.
    const client = new pg.Client({ application_name: this.name });
    client.on("error", () => this.#drop(client)); // between two calls
    client.on("end", () => this.#drop(client));
    client.on("notification", () => this.heard());
    await client.connect();
    for (const channel of this.channels) await client.query(`LISTEN ${pg.escapeIdentifier(channel)}`);
    this.#client = client;
    if (this.channels.length) this.heard(); // whatever was notified while nobody listened
    return client;
  }

  #drop(client) {
    if (this.#client === client) {
      this.#client = null;
      if (this.channels.length) this.open().catch(() => {}); // listens again
    }
  }
}

const statement = (name, request) => [`SELECT tasker.${name}($1::jsonb) AS answer`, [JSON.stringify(request)]];
const answerOf = (result) => result.rows[0].answer;

// pg puts the SQLSTATE where others put the names of network errors.
function withSqlstate(error) {
  if (error.sqlstate === undefined && /^[0-9A-Z]{5}$/.test(error.code ?? "") && error.severity) error.sqlstate = error.code;
  return error;
}
