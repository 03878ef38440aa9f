// A busy key reserves ahead, and spends without asking: few calls of the ledger, and books that are right all the same.
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { after, before, suite, test } from "node:test";
import { startAdmin } from "./harness/admin.mjs";
import { ADMIN_TOKEN, completionCall, startGateway } from "./harness/gateway.mjs";
import { send } from "./harness/http_client.mjs";
import { answer, asAsked, completion, events, pieces, stream, textChunk, USAGE } from "./harness/scripts.mjs";
import { eventually, latch, untilTheDayHasTime } from "./harness/wait.mjs";

// As the configuration's default has it.
const SLICE_MS = 1000;
const CLIENTS = 8;
const TOKENS = USAGE.prompt_tokens + USAGE.completion_tokens;

const END = events(textChunk("", "stop"), { choices: [], usage: USAGE }, "[DONE]");
const good = asAsked(answer(200, completion("ok")), stream(`${events(textChunk("ok"))}${END}`));
const gate = latch();
const held = pieces([events(textChunk("held")), () => gate.opened, END]);

suite("slices", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({ scripts: { good, "to the last": good, held } });
    await untilTheDayHasTime(60_000);
  });
  after(() => gateway?.stop());

  /** Several clients, each of which asks again when it has its answer, until `goOn` says no; the answers' statuses. */
  async function burst(ask, goOn) {
    const statuses = [];
    const client = async () => {
      while (goOn(statuses)) {
        const response = await ask();
        await response.bytes();
        statuses.push(response.status);
      }
    };
    await Promise.all(Array.from({ length: CLIENTS }, client));
    return statuses;
  }
  const upTo = (count) => {
    let begun = 0;
    return () => (begun += 1) <= count;
  };
  const complete = (caller, more = {}) => caller.complete({ model: "good", prompt: "p", ...more });

  /** What is left of the caller's requests, as the ledger tells, whom asking costs nothing. */
  async function remaining(caller) {
    const { headers } = await caller.get("/v1/models");
    return [headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-remaining-tokens"]].map(Number);
  }
  const eventuallyRemaining = (caller, requests, tokens) =>
    eventually(`${requests} requests and ${tokens} tokens to be left`, async () => {
      const now = await remaining(caller);
      return now[0] === requests && now[1] === tokens ? true : undefined;
    });

  for (const streaming of [false, true]) {
    test(`a burst asks the ledger now and then, and the books are right (${streaming ? "streams" : "whole answers"})`, async () => {
      const count = 400;
      const caller = await gateway.addCaller({ tenant: { requests_per_day: 1_000_000, tokens_per_month: 100_000_000, concurrent_requests: 10_000 } });
      const statuses = await burst(() => complete(caller, { stream: streaming }), upTo(count));
      assert.ok(statuses.length === count && statuses.every((status) => status === 200), String(statuses));
      await eventuallyRemaining(caller, 1_000_000 - count, 100_000_000 - count * TOKENS);
      const usage = await caller.usageOf(count);
      assert.deepEqual(usage, { requests: count, prompt_tokens: count * USAGE.prompt_tokens, completion_tokens: count * USAGE.completion_tokens, estimated: 0, refused: 0, errors: 0 });
      const entries = entriesOnDisk(gateway.storage, caller.keyId);
      assert.ok(entries > 0 && entries < count, `${entries} entries of the journal, where ${2 * count} would be one for each reserve and settlement`);
    });
  }

  test("of a limit, all is admitted and no more", async () => {
    const limit = 300;
    const caller = await gateway.addCaller({ tenant: { requests_per_day: limit } });
    const admitted = (statuses) => statuses.filter((status) => status === 200).length;
    const until = Date.now() + 20_000;
    await burst(() => complete(caller, { model: "to the last" }), (statuses) => admitted(statuses) < limit && Date.now() < until);
    const more = await burst(() => complete(caller, { model: "to the last" }), upTo(40));
    assert.ok(more.every((status) => status === 429), String(more));
    assert.equal(gateway.upstream.requestsFor("to the last").length, limit);
    const usage = await caller.usageOf(limit);
    assert.equal(usage.requests, limit);
  });

  test("of a client that counts, every answer has one less left than the one before", async () => {
    const caller = await gateway.addCaller({ tenant: { requests_per_day: 10_000 } });
    for (let nth = 1; nth <= 60; nth += 1) {
      const response = await complete(caller);
      await response.bytes();
      assert.equal(response.headers["x-ratelimit-remaining-requests"], String(10_000 - nth));
    }
  });

  test("what an idle key has left is given back", async () => {
    const caller = await gateway.addCaller({ tenant: { requests_per_day: 1_000_000, tokens_per_day: 100_000_000 } });
    await burst(() => complete(caller), upTo(100));
    const ended = Date.now();
    await eventuallyRemaining(caller, 1_000_000 - 100, 100_000_000 - 100 * TOKENS);
    const tookMs = Date.now() - ended;
    assert.ok(tookMs < 2 * SLICE_MS + 1000, `it took ${tookMs} ms`);
  });

  test("a stream that outlasts its slice is settled in it", async () => {
    const caller = await gateway.addCaller({ tenant: { requests_per_day: 1_000_000, concurrent_requests: 10_000 } });
    await burst(() => complete(caller), upTo(40));
    const streams = await Promise.all(Array.from({ length: 10 }, () => complete(caller, { model: "held", stream: true })));
    for (const response of streams) await response.contains("held");
    const usedAtOnce = async () => {
      const { limits } = await (await caller.get("/v1/usage")).json();
      return limits.find(({ limit }) => limit === "concurrent_requests").used;
    };
    await eventually("only the streams to have places", async () => ((await usedAtOnce()) === 10 ? true : undefined));
    gate.open();
    for (const response of streams) await response.text();
    await eventually("all places to be free", async () => ((await usedAtOnce()) === 0 ? true : undefined));
    const usage = await caller.usageOf(50);
    assert.deepEqual([usage.requests, usage.prompt_tokens], [50, 50 * USAGE.prompt_tokens]);
  });

  test("a ledger object that is thrown out of memory amid a burst knows all of it", async () => {
    const count = 400;
    const caller = await gateway.addCaller({ tenant: { requests_per_day: 1_000_000, tokens_per_month: 100_000_000 } });
    let over = false;
    const evicting = (async () => {
      while (!over) {
        await gateway.evictLedger(caller.tenant).catch((error) => assert.match(error.message, /not currently running/));
        await new Promise((resolve) => setTimeout(resolve, 30));
      }
    })();
    const statuses = await burst(() => complete(caller), upTo(count));
    over = true;
    await evicting;
    // A call that was under way when the object went is one that nobody answers: 503, and charged nothing.
    const admitted = statuses.filter((status) => status === 200).length;
    assert.ok(statuses.every((status) => [200, 503].includes(status)) && admitted > count / 2, String(statuses));
    await eventually("the tokens of those that were answered", async () => {
      const [, tokens] = await remaining(caller);
      return tokens === 100_000_000 - admitted * TOKENS ? true : undefined;
    });
  });

  test("a key that is revoked in a burst is refused from then on", async () => {
    const admin = startAdmin(gateway, ADMIN_TOKEN);
    await admin.must(201, "POST", "tenants", { id: "bursting" });
    const { json: key } = await admin.must(201, "POST", "tenants/bursting/keys", {});
    const ask = () => send(gateway.port, completionCall(key.key, { model: "good", prompt: "p" }));
    let revoked = false;
    const after = [];
    const asking = burst(
      async () => {
        const sentAfter = revoked;
        const response = await ask();
        if (sentAfter) after.push(response.status);
        return response;
      },
      () => after.length < 50,
    );
    await eventually("slices to be spent", async () => (gateway.upstream.requestsFor("good").length > 100 ? true : undefined));
    await admin.must(204, "DELETE", `tenants/bursting/keys/${key.id}`);
    revoked = true;
    await asking;
    assert.ok(after.every((status) => status === 401), String(after));
  });
});

suite("slices that are over at once", () => {
  // What a slice of the usual length is where the machine stands still while replies are on their way.
  const quota = { slice_ms: 10 };
  let gateway;
  before(async () => {
    const open = pieces([events(textChunk("open")), (exchange) => exchange.closed]);
    gateway = await startGateway({ scripts: { open }, configure: (config) => ({ ...config, quota: { ...config.quota, ...quota } }) });
  });
  after(() => gateway?.stop());

  test("as many streams as there are places: nobody is refused for what is given back", async () => {
    const places = 24;
    for (let nth = 0; nth < 15; nth += 1) {
      const caller = await gateway.addCaller({ tenant: { concurrent_requests: places } });
      const ask = () => caller.complete({ model: "open", prompt: "p", stream: true });
      const streams = await Promise.all(Array.from({ length: places }, ask));
      const statuses = streams.map(({ status }) => status);
      assert.ok(statuses.every((status) => status === 200), String(statuses));
      assert.equal((await ask()).status, 429);
      for (const response of streams) response.hangUp();
      const { refused } = await caller.usageOf(places);
      assert.equal(refused, 1);
    }
  });
});

/** How many entries the journal of a key's ledger has had. It is only read, while the ledger may write. */
function entriesOnDisk(folder, keyId) {
  for (const file of readdirSync(folder, { recursive: true }).filter((name) => name.endsWith(".sqlite"))) {
    const database = new DatabaseSync(join(folder, file), { readOnly: true });
    try {
      if (!database.prepare("SELECT 1 FROM usage_1 WHERE key = ?").get(keyId)) continue;
      return database.prepare("SELECT max(seq) AS entries FROM journal_1").get().entries;
    } catch (error) {
      // Other objects of the runtime's have no such table.
      if (!/no such table/.test(error.message)) throw error;
    } finally {
      database.close();
    }
  }
  return undefined;
}
