// What the ledger has of a request afterwards, however it ended: as the upstream counted it, else by the rule of
// thumb; and that it survives whatever happens to the object, or to workerd.
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { after, before, suite, test } from "node:test";
import { startGateway } from "./harness/gateway.mjs";
import { answer, asAsked, chatChunk, chatCompletion, closeDelimited, completion, cut, events, pieces, silence, stream, talkUntilGone, textChunk, USAGE } from "./harness/scripts.mjs";
import { atTime, eventually, latch, untilTheDayHasTime } from "./harness/wait.mjs";

// 9 bytes count for 3 tokens, and 8 bytes of text for 2, where nobody else has counted.
const PROMPT = "nine byte";
const TEXT = "12345678";
const ESTIMATE = { prompt_tokens: 3, completion_tokens: 2, estimated: 1 };
const REPORTED = { prompt_tokens: USAGE.prompt_tokens, completion_tokens: USAGE.completion_tokens, estimated: 0 };
const NOTHING = { prompt_tokens: 0, completion_tokens: 0, estimated: 0, errors: 1 };

const usage = (prompt_tokens, completion_tokens) => ({ prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens });
const usageEvent = (...counts) => ({ choices: [], usage: usage(...counts) });
const said = textChunk(TEXT);
const finished = textChunk("", "stop");

// name → what the upstream does, what is asked besides, and what the ledger has afterwards.
const ENDED = {
  "a whole answer": [answer(200, completion(TEXT)), {}, REPORTED],
  "pitfall 7: a stream": [stream(events(said, finished, usageEvent(7, 2), "[DONE]")), { stream: true }, REPORTED],
  "a whole answer, by chat": [{ dialect: "openai-chat", script: answer(200, chatCompletion(TEXT)) }, {}, REPORTED],
  "pitfall 7: a stream, by chat": [
    { dialect: "openai-chat", script: stream(events(chatChunk({ content: TEXT }), chatChunk({}, "stop"), usageEvent(7, 2), "[DONE]")) },
    { stream: true },
    REPORTED,
  ],
  "a whole answer where a stream was asked for": [answer(200, completion(TEXT)), { stream: true }, REPORTED],
  "pitfall 2: an explicit zero in an answer": [answer(200, completion(TEXT, { usage: usage(0, 0) })), {}, { prompt_tokens: 0, completion_tokens: 0, estimated: 0 }],
  "pitfall 2: an explicit zero in a stream": [stream(events(said, finished, usageEvent(0, 0), "[DONE]")), { stream: true }, { prompt_tokens: 0, completion_tokens: 0, estimated: 0 }],
  "pitfall 2: zero tokens of completion alone": [stream(events(said, finished, usageEvent(7, 0), "[DONE]")), { stream: true }, { prompt_tokens: 7, completion_tokens: 0, estimated: 0 }],
  "pitfall 9: usage in two events": [stream(events(said, finished, usageEvent(7, 1), usageEvent(7, 2), "[DONE]")), { stream: true }, REPORTED],
  "pitfall 9: usage in every event": [
    stream(events({ ...said, usage: usage(7, 1) }, { ...finished, usage: usage(7, 2) }, usageEvent(7, 2), "[DONE]")),
    { stream: true },
    REPORTED,
  ],
  "pitfall 10: usage in a last event without a line end": [
    closeDelimited(`${events(said, finished)}data: ${JSON.stringify(usageEvent(7, 2))}`),
    { stream: true },
    REPORTED,
  ],
  "pitfall 10: and without its blank line": [
    stream(`${events(said, finished)}data: ${JSON.stringify(usageEvent(7, 2))}\n`),
    { stream: true },
    REPORTED,
  ],
  "no usage in an answer": [answer(200, completion(TEXT, { usage: null })), {}, ESTIMATE],
  "no usage in a stream": [stream(events(said, finished, "[DONE]")), { stream: true }, ESTIMATE],
  "no usage, and a prompt of tokens": [answer(200, completion(TEXT, { usage: null })), { prompt: [1, 2, 3, 4, 5] }, { ...ESTIMATE, prompt_tokens: 5 }],
  "an upstream that is cut": [cut(events(said), "truncated"), { stream: true }, { ...ESTIMATE, errors: 1 }],
  "an upstream that fails amid its stream": [stream(events(said, { error: { message: "out of memory" } })), { stream: true }, { ...ESTIMATE, errors: 1 }],
  "an upstream that is cut, and has reported more than it sent": [
    cut(events({ ...said, usage: usage(7, 6) }), "truncated"),
    { stream: true },
    { prompt_tokens: 7, completion_tokens: 6, estimated: 0, errors: 1 },
  ],
  "an upstream that is cut, and has reported less than it sent": [
    cut(events({ ...said, usage: usage(7, 1) }), "truncated"),
    { stream: true },
    { prompt_tokens: 7, completion_tokens: 2, estimated: 1, errors: 1 },
  ],
  "an upstream that fails": [answer(500, { error: { message: "out of memory" } }), {}, NOTHING],
  "an upstream that refuses": [answer(400, { error: { message: "no" } }), {}, NOTHING],
  "an upstream that fails before its first chunk": [stream(events({ error: { message: "out of memory" } })), { stream: true }, NOTHING],
  "headers that do not come in time": [{ script: silence, upstream: { total_timeout_ms: 200 } }, {}, NOTHING],
  "headers that do not come in time, for a stream": [{ script: silence, upstream: { headers_timeout_ms: 200 } }, { stream: true }, NOTHING],
};

// The same for clients that go.
const talking = latch();
// More than the buffers between the upstream and the Worker hold, and less than an answer may have: once all of it is
// written, the Worker reads.
const LONG = " ".repeat(15_000_000);
const [reading, readingAll] = [latch(), latch()];
const GONE = {
  "before headers, RST": { script: silence, stream: true, how: "hangUp", expected: NOTHING },
  "before headers, not streaming, RST": { script: silence, how: "hangUp", expected: NOTHING },
  "mid-answer, not streaming, RST": {
    script: pieces([LONG, () => reading.open(), (exchange) => exchange.closed], "application/json"),
    until: reading,
    how: "hangUp",
    expected: { ...ESTIMATE, completion_tokens: 0, errors: 0 },
  },
  "mid-answer, its length announced, RST": {
    script: async (exchange) => {
      await exchange.head(200, { "Content-Type": "application/json", "Content-Length": LONG.length + 1 });
      await exchange.send(LONG);
      readingAll.open();
      await exchange.closed;
    },
    until: readingAll,
    how: "hangUp",
    expected: { ...ESTIMATE, completion_tokens: 0, errors: 0 },
  },
  // Nobody can see from outside whether the Worker knew already that the upstream had begun to answer. If it did, the
  // prompt is owed, else nothing; tests/quota.rs has both, each by itself.
  "before the first token, RST": {
    script: pieces([": working\n\n", (exchange) => exchange.closed]),
    stream: true,
    how: "hangUp",
    expected: NOTHING,
    orElse: { ...ESTIMATE, completion_tokens: 0, errors: 0 },
  },
  "mid-stream, RST": { script: pieces([events(said), (exchange) => exchange.closed]), stream: true, reads: true, how: "hangUp", expected: { ...ESTIMATE, errors: 0 } },
  "mid-stream, RST, the upstream has reported": {
    script: pieces([events({ ...said, usage: usage(7, 6) }), (exchange) => exchange.closed]),
    stream: true,
    reads: true,
    how: "hangUp",
    expected: { prompt_tokens: 7, completion_tokens: 6, estimated: 0, errors: 0 },
  },
};

suite("metering", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: {
        ...Object.fromEntries(Object.entries(ENDED).map(([name, [entry]]) => [name, entry])),
        ...Object.fromEntries(Object.entries(GONE).map(([name, { script }]) => [name, script])),
        "talks on": pieces([events(said), () => talking.opened, talkUntilGone(events(said))]),
        fallback: answer(503, { error: { message: "overloaded" } }),
      },
      configure(config) {
        config.models.fallback.targets.push(config.models["a whole answer"].targets[0]);
        return config;
      },
    });
    await untilTheDayHasTime(60_000);
  });
  after(() => gateway?.stop());

  for (const [name, [, more, expected]] of Object.entries(ENDED)) {
    test(name, async () => {
      const caller = await gateway.addCaller();
      const response = await caller.complete({ model: name, prompt: PROMPT, ...more });
      await response.text();
      const sum = await caller.usageOf(1);
      assert.deepEqual(sum, { requests: 1, refused: 0, errors: 0, ...expected });
    });
  }

  for (const [name, { stream, reads, until, how, expected, orElse }] of Object.entries(GONE)) {
    test(`pitfall 1: a client that goes ${name}`, async () => {
      const caller = await gateway.addCaller();
      const call = caller.start({ model: name, prompt: PROMPT, stream });
      await gateway.upstream.requestFor(name);
      if (reads) await (await call.response).contains(TEXT);
      await until?.opened;
      call[how]();
      const used = await caller.usageOf(1);
      const charged = orElse && used.prompt_tokens === orElse.prompt_tokens ? orElse : expected;
      assert.deepEqual(used, { requests: 1, refused: 0, errors: 0, ...charged });
    });
  }

  test("pitfall 1: a client that goes mid-stream, FIN", async () => {
    const caller = await gateway.addCaller();
    const response = await caller.complete({ model: "talks on", prompt: PROMPT, stream: true });
    await response.contains(TEXT);
    response.close();
    // A FIN shows only when somebody writes: until then it is a client that listens.
    talking.open();
    const request = await gateway.upstream.requestFor("talks on");
    await request.connectionClosed("the upstream to be cancelled");
    const { prompt_tokens, completion_tokens, ...rest } = await caller.usageOf(1);
    assert.deepEqual([prompt_tokens, rest], [3, { requests: 1, estimated: 1, refused: 0, errors: 0 }]);
    assert.ok(completion_tokens >= 2 && completion_tokens < 20_000, `${completion_tokens} tokens: what was sent, and no more`);
  });

  test("a fallback is one request, and costs what answered", async () => {
    const caller = await gateway.addCaller();
    const response = await caller.complete({ model: "fallback", prompt: PROMPT });
    assert.equal(response.status, 200, await response.text());
    assert.deepEqual(await caller.usageOf(1), { requests: 1, refused: 0, errors: 0, ...REPORTED });
  });

  test("what is refused before the quota is no request", async () => {
    const caller = await gateway.addCaller();
    for (const body of [{ model: "nope", prompt: PROMPT }, { model: "a whole answer" }, { model: "a whole answer", prompt: PROMPT, n: 0 }]) {
      const response = await caller.complete(body);
      assert.ok([400, 404].includes(response.status), await response.text());
    }
    assert.deepEqual(await caller.usage(), []);
  });

  test("rows are by key and model", async () => {
    const one = await gateway.addCaller();
    const other = await gateway.addCaller({ beside: one });
    for (const caller of [one, other, other]) await (await caller.complete({ model: "a whole answer", prompt: PROMPT })).text();
    await (await one.complete({ model: "no usage in a stream", prompt: PROMPT, stream: true })).text();
    await one.usageOf(4);
    const rows = (await one.usage()).map(({ key, model, requests }) => [key, model, requests]);
    const byKey = [[one.keyId, "a whole answer", 1], [one.keyId, "no usage in a stream", 1], [other.keyId, "a whole answer", 2]];
    assert.deepEqual(rows.sort(), byKey.sort());
  });
});

suite("leases", () => {
  // It is renewed each third of that: a machine that stands still for the other two thirds would fail these tests.
  const LEASE_MS = 3000;
  // Past the end of the first renewal too.
  const OUTLIVED_MS = 1.5 * LEASE_MS;
  const gates = { "outlives its lease": latch(), "thinks for long": latch() };
  const good = answer(200, completion(TEXT));
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: {
        good,
        "outlives its lease": pieces([events(said), () => gates["outlives its lease"].opened, events(finished, usageEvent(7, 2), "[DONE]")]),
        "thinks for long": pieces([": working\n\n", () => gates["thinks for long"].opened, events(said, finished, usageEvent(7, 2), "[DONE]")]),
        "never ends": pieces([events(said), (exchange) => exchange.closed]),
      },
      configure: (config) => ({ ...config, quota: { lease_ms: LEASE_MS } }),
    });
    await untilTheDayHasTime(60_000);
  });
  after(() => gateway?.stop());

  test("pitfall 12: a stream that outlives its lease is renewed, and settled by the truth", async () => {
    const caller = await gateway.addCaller({ tenant: { concurrent_requests: 1 } });
    const began = Date.now();
    const response = await caller.complete({ model: "outlives its lease", prompt: PROMPT, stream: true, max_tokens: 500 });
    await response.contains(TEXT);
    while (Date.now() < began + OUTLIVED_MS) {
      assert.equal((await caller.complete({ model: "good", prompt: PROMPT })).status, 429, "its place is still taken");
      await atTime(Date.now() + 100);
    }
    gates["outlives its lease"].open();
    await response.text();
    const { refused, ...sum } = await caller.usageOf(1);
    assert.deepEqual(sum, { requests: 1, errors: 0, ...REPORTED });
    assert.ok(refused > 0);
    assert.equal((await caller.complete({ model: "good", prompt: PROMPT })).status, 200);
  });

  test("a first token that outlives the lease: the place stays taken, and it is settled by the truth", async () => {
    const caller = await gateway.addCaller({ tenant: { concurrent_requests: 1 } });
    const began = Date.now();
    const answered = caller.complete({ model: "thinks for long", prompt: PROMPT, stream: true, max_tokens: 500 });
    const other = () => caller.complete({ model: "good", prompt: PROMPT });
    await gateway.upstream.requestFor("thinks for long");
    while (Date.now() < began + OUTLIVED_MS) {
      assert.equal((await other()).status, 429, "its place is still taken");
      await atTime(Date.now() + 100);
    }
    gates["thinks for long"].open();
    await (await answered).text();
    await eventually("the place to be free", async () => (await other()).status === 200);
  });

  test("workerd is killed amid a stream: its place stays taken until the lease's alarm, then it is charged as reserved", async () => {
    const caller = await gateway.addCaller({ tenant: { concurrent_requests: 1, tokens_per_day: 1000 } });
    const response = await caller.complete({ model: "never ends", prompt: PROMPT, stream: true, max_tokens: 500 });
    await response.contains(TEXT);
    await gateway.kill();
    await gateway.begin();

    // Nobody asks this ledger anything: it is the alarm that closes the lease, and the table on disk that tells.
    const row = await eventually("the alarm to close the lease", () => {
      return rowOnDisk(gateway.storage, "SELECT requests, prompt_tokens, completion_tokens, estimated, errors FROM usage_1 WHERE key = ?", caller.keyId);
    });
    assert.deepEqual({ ...row }, { requests: 1, prompt_tokens: 3, completion_tokens: 500, estimated: 1, errors: 1 });
    assert.deepEqual(await caller.usageOf(1), { requests: 1, prompt_tokens: 3, completion_tokens: 500, estimated: 1, refused: 0, errors: 1 });

    const again = await caller.complete({ model: "good", prompt: PROMPT });
    assert.equal(again.status, 200, "the place is free again");
    assert.equal(again.headers["x-ratelimit-remaining-tokens"], String(1000 - 503 - 3 - 16));
  });
});

suite("restarts", () => {
  const good = asAsked(answer(200, completion(TEXT)), pieces([events(said), (exchange) => exchange.closed]));
  let gateway;
  before(async () => {
    gateway = await startGateway({ scripts: { good } });
    await untilTheDayHasTime(60_000);
  });
  after(() => gateway?.stop());

  const statusOf = async (caller, more = {}) => (await caller.complete({ model: "good", prompt: PROMPT, ...more })).status;
  const HOW = {
    "the object": (caller) => gateway.evictLedger(caller.tenant),
    workerd: () => gateway.restart(),
  };

  for (const [name, restart] of Object.entries(HOW)) {
    // Few are in the journal alone, many in the snapshot too.
    for (const [count, limit] of [[3, 5], [150, 160]]) {
      test(`${name}: of ${limit} requests a day, ${count} before and ${limit - count} after`, async () => {
        const caller = await gateway.addCaller({ tenant: { requests_per_day: limit, tokens_per_month: 1_000_000 } });
        const statuses = await Promise.all(Array.from({ length: count }, () => statusOf(caller)));
        assert.ok(statuses.every((status) => status === 200));
        await eventually("all to be settled", () => settledTokens(caller, 1_000_000 - 9 * count));
        await restart(caller);
        await eventually("the same to be left", () => settledTokens(caller, 1_000_000 - 9 * count));
        for (let nth = count; nth < limit; nth += 1) assert.equal(await statusOf(caller), 200);
        assert.equal(await statusOf(caller), 429);
        const sum = await caller.usageOf(limit);
        assert.deepEqual([sum.requests, sum.prompt_tokens, sum.completion_tokens], [limit, 7 * limit, 2 * limit]);
      });
    }

    test(`${name}: the bucket of a minute is not full again`, async () => {
      const caller = await gateway.addCaller({ tenant: { requests_per_minute: 2 } });
      assert.deepEqual([await statusOf(caller), await statusOf(caller), await statusOf(caller)], [200, 200, 429]);
      await restart(caller);
      assert.equal(await statusOf(caller), 429);
    });

    test(`${name}: a promise that nobody has settled is kept`, async () => {
      const caller = await gateway.addCaller({ tenant: { concurrent_requests: 1, tokens_per_day: 1000 } });
      const response = await caller.complete({ model: "good", prompt: PROMPT, stream: true, max_tokens: 500 });
      await response.contains(TEXT);
      await restart(caller);
      assert.equal(await statusOf(caller), 429, "its place is taken");
      const { headers } = await caller.get("/v1/models");
      assert.equal(headers["x-ratelimit-remaining-tokens"], String(1000 - 503));
      response.hangUp();
    });
  }

  test("what was settled is on disk a moment later, though nobody asks", async () => {
    const caller = await gateway.addCaller({ tenant: { tokens_per_day: 1000 } });
    assert.equal(await statusOf(caller), 200);
    const settled = `SELECT settled.entry FROM journal_1 AS settled JOIN journal_1 AS reserved ON settled.seq > reserved.seq
      WHERE json_extract(reserved.entry, '$[1].reserve[1]') = ?
      AND json_extract(settled.entry, '$[1].settle[0]') = json_extract(reserved.entry, '$[1].reserve[0]')`;
    await eventually("the settlement to be written", () => rowOnDisk(gateway.storage, settled, caller.keyId));
    await gateway.kill();
    await gateway.begin();
    assert.deepEqual(await caller.usageOf(1), { requests: 1, refused: 0, errors: 0, ...REPORTED });
  });

  /** True once so many of the month's tokens are left; asking costs nothing, and has written down what was told before. */
  async function settledTokens(caller, expected) {
    const { headers } = await caller.get("/v1/models");
    return Number(headers["x-ratelimit-remaining-tokens"]) === expected ? true : undefined;
  }
});

suite("reservations that come at once", () => {
  let gateway;
  before(async () => {
    const configure = (config) => ({ ...config, quota: { ...config.quota, slice_ms: 0 } });
    gateway = await startGateway({ scripts: { good: answer(200, completion(TEXT)) }, configure });
  });
  after(() => gateway?.stop());

  test("share a row", async () => {
    const count = 100;
    const caller = await gateway.addCaller({ tenant: { requests_per_day: 100_000 } });
    const responses = await Promise.all(Array.from({ length: count }, () => caller.complete({ model: "good", prompt: PROMPT })));
    assert.ok(responses.every(({ status }) => status === 200));
    const query = `SELECT count(*) AS reserved, count(DISTINCT seq) AS rows FROM (
        SELECT seq, value AS entry FROM journal_1, json_each(entry, '$[1].several') UNION ALL SELECT seq, entry FROM journal_1
      ) WHERE json_extract(entry, '$[1].reserve[1]') = ? HAVING reserved > 0`;
    const { reserved, rows } = await eventually("what is on disk", () => rowOnDisk(gateway.storage, query, caller.keyId));
    assert.equal(reserved, count);
    assert.ok(rows <= count / 2, `${rows} rows`);
  });
});

/** A row that some ledger has on disk, if there is one. It is only read, while the ledger may write. */
function rowOnDisk(folder, query, ...bindings) {
  const files = readdirSync(folder, { recursive: true }).filter((name) => name.endsWith(".sqlite"));
  for (const file of files) {
    const database = new DatabaseSync(join(folder, file), { readOnly: true });
    try {
      const row = database.prepare(query).get(...bindings);
      if (row) return row;
    } catch (error) {
      // Other objects of the runtime's have no such table; and the owner may be writing just now.
      if (!/no such table|locked/.test(error.message)) throw error;
    } finally {
      database.close();
    }
  }
  return undefined;
}
