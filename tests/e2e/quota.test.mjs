// Limits that hold, and refusals that are true: the real ledger, under clients that come all at once, wait, hammer
// and go away.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { join } from "node:path";
import { runJobs as runNodeJobs } from "./clients/node/openai.mjs";
import { startGateway } from "./harness/gateway.mjs";
import { runJobs } from "./harness/programs.mjs";
import { answer, asAsked, completion, cut, events, pieces, silence, stream, talkUntilGone, textChunk, USAGE } from "./harness/scripts.mjs";
import { assertErrorShape } from "./harness/sse.mjs";
import { atTime, eventually, latch, untilTheDayHasTime } from "./harness/wait.mjs";

const { E2E_PYTHON } = process.env;

const good = asAsked(
  answer(200, completion("ok")),
  stream(events(textChunk("ok", "stop"), { choices: [], usage: USAGE }, "[DONE]")),
);

/** An answer that uses what was reserved for it, to the token. */
const usesAll = (exchange) => {
  const { prompt, max_tokens } = exchange.request.json;
  const usage = { prompt_tokens: Math.ceil(prompt.length / 4), completion_tokens: max_tokens };
  return answer(200, completion("ok", { usage: { ...usage, total_tokens: usage.prompt_tokens + usage.completion_tokens } }))(exchange);
};

// A stream that has begun, and stays open until the test opens its gate; then it goes on in its own way.
const FIRST = events(textChunk("held"));
const END = events(textChunk("", "stop"), { choices: [], usage: USAGE }, "[DONE]");
const gates = {};
function held(name, goOn) {
  gates[name] = latch();
  return goOn(gates[name]);
}
const heldUntil = (gate, rest) => pieces([FIRST, () => gate.opened, rest]);

const ENDINGS = {
  "its end": held("its end", (gate) => heldUntil(gate, END)),
  "an error of the upstream": held("an error of the upstream", (gate) => heldUntil(gate, events({ error: { message: "out of memory" } }))),
  "a cut by the upstream": held("a cut by the upstream", (gate) => cut(FIRST, "truncated", gate)),
  "an RST of the client": held("an RST of the client", () => pieces([FIRST, (exchange) => exchange.closed])),
  "a FIN of the client": held("a FIN of the client", (gate) => pieces([FIRST, () => gate.opened, talkUntilGone(FIRST)])),
};

suite("quota", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: {
        good,
        daily: good,
        "a minute's": good,
        "counted for openai-node": good,
        "counted for openai-python": good,
        greedy: usesAll,
        "far more than asked": answer(200, completion("ok", { usage: { prompt_tokens: 1, completion_tokens: 3000, total_tokens: 3001 } })),
        ...ENDINGS,
        "many at once": held("many at once", (gate) => heldUntil(gate, END)),
        "before headers": silence,
        "headers never come": { script: silence, upstream: { headers_timeout_ms: 300, total_timeout_ms: 300 } },
        "fails with 500": answer(500, { error: { message: "out of memory" } }),
      },
    });
    await untilTheDayHasTime(60_000);
  });
  after(() => gateway?.stop());

  const ask = (caller, more = {}) => caller.complete({ model: "good", prompt: "p", ...more });
  const admitted = async (response) => assert.equal(response.status, 200, await response.text());

  /** A 429 with all that one has to have; its error and its wait in milliseconds. */
  async function refused(response, [type, code]) {
    assert.equal(response.status, 429, await response.text());
    const { error } = await response.json();
    assertErrorShape(error);
    assert.deepEqual([error.type, error.param, error.code], [type, null, code]);
    const waitMs = Number(response.headers["retry-after-ms"]);
    assert.ok(Number.isInteger(waitMs) && waitMs > 0, `retry-after-ms: ${response.headers["retry-after-ms"]}`);
    assert.equal(response.headers["retry-after"], String(Math.ceil(waitMs / 1000)));
    return { error, waitMs };
  }
  const REQUESTS = ["requests", "rate_limit_exceeded"];
  const TOKENS = ["tokens", "rate_limit_exceeded"];
  const CONCURRENCY = ["concurrency", "rate_limit_exceeded"];
  const QUOTA = ["insufficient_quota", "insufficient_quota"];

  /** What is left of the caller's tokens, from an answer that costs none. */
  async function remainingTokens(caller) {
    const response = await caller.get("/v1/models");
    await response.bytes();
    return Number(response.headers["x-ratelimit-remaining-tokens"]);
  }

  const manyAtOnce = (count, make) => Promise.all(Array.from({ length: count }, (_, nth) => make(nth)));

  test("pitfall 4: of 200 parallel clients, a limit of 50 requests a day admits exactly 50", async () => {
    const caller = await gateway.addCaller({ tenant: { requests_per_day: 50 } });
    const responses = await manyAtOnce(200, () => ask(caller, { model: "daily" }));
    const untilMidnight = 86_400_000 - (Date.now() % 86_400_000);
    assert.equal(responses.filter(({ status }) => status === 200).length, 50);
    for (const response of responses.filter(({ status }) => status !== 200)) {
      const { waitMs } = await refused(response, QUOTA);
      assert.equal(response.headers["x-should-retry"], "false");
      assert.ok(Math.abs(waitMs - untilMidnight) < 15_000, `${waitMs} ms, where midnight is ${untilMidnight} ms away`);
    }
    assert.equal(gateway.upstream.requestsFor("daily").length, 50);
    const usage = await caller.usageOf(50);
    assert.deepEqual([usage.requests, usage.refused], [50, 150]);
  });

  test("pitfall 4: against 50 a minute, 50 and what is refilled meanwhile", async () => {
    const caller = await gateway.addCaller({ tenant: { requests_per_minute: 50 } });
    const began = Date.now();
    const responses = await manyAtOnce(200, () => ask(caller, { model: "a minute's" }));
    const elapsedMs = Date.now() - began;
    const count = responses.filter(({ status }) => status === 200).length;
    const most = 50 + Math.floor((50 * elapsedMs) / 60_000);
    assert.ok(count >= 50 && count <= most, `${count} admitted within ${elapsedMs} ms`);
    assert.equal(gateway.upstream.requestsFor("a minute's").length, count);
    for (const response of responses.filter(({ status }) => status !== 200)) {
      const { waitMs } = await refused(response, REQUESTS);
      assert.ok(waitMs <= 1200, `one request is refilled in 1200 ms, and the answer says ${waitMs}`);
      assert.equal(response.headers["x-should-retry"], undefined);
    }
  });

  test("pitfall 4: of 20 streams at once, 5 where 5 are allowed", async () => {
    const caller = await gateway.addCaller({ tenant: { concurrent_requests: 5 } });
    const responses = await manyAtOnce(20, () => ask(caller, { model: "many at once", stream: true }));
    const streams = responses.filter(({ status }) => status === 200);
    assert.equal(streams.length, 5);
    for (const response of responses.filter(({ status }) => status !== 200)) await refused(response, CONCURRENCY);
    gates["many at once"].open();
    for (const response of streams) await response.text();
  });

  test("pitfall 13: a client that waits exactly as long as it was told is admitted (requests)", async () => {
    const caller = await gateway.addCaller({ tenant: { requests_per_minute: 60 } });
    let refusal;
    while (!refusal) refusal = (await manyAtOnce(30, () => ask(caller))).find(({ status }) => status === 429);
    // The last one of the batch may have been admitted after this refusal: what counts is the answer to one alone.
    const { refusal: alone, at } = await firstRefusal(() => ask(caller));
    const { waitMs } = await refused(alone, REQUESTS);
    await atTime(at + waitMs);
    await admitted(await ask(caller));
  });

  test("pitfalls 3 and 13: the same for tokens, though it hammers meanwhile", async () => {
    const caller = await gateway.addCaller({ tenant: { tokens_per_minute: 60_000 } });
    await admitted(await ask(caller, { model: "greedy", max_tokens: 59_000 }));
    const { refusal, at } = await firstRefusal(() => ask(caller, { model: "greedy", max_tokens: 2500 }));
    const { waitMs } = await refused(refusal, TOKENS);
    const deadline = at + waitMs;
    while (Date.now() < deadline - 200) await refused(await ask(caller, { model: "greedy", max_tokens: 2500 }), TOKENS);
    await atTime(deadline);
    await admitted(await ask(caller, { model: "greedy", max_tokens: 2500 }));
  });

  /** Asks until it is refused. `at` is when the refusal was there, which is later than when it was decided. */
  const firstRefusal = (make) =>
    eventually("a refusal", async () => {
      const refusal = await make();
      return refusal.status === 429 ? { refusal, at: Date.now() } : undefined;
    });

  for (const [limit, ends] of [["tokens_per_day", endOfDay], ["tokens_per_month", endOfMonth]]) {
    test(`pitfall 13: ${limit} are renewed when the calendar says so, in UTC`, async () => {
      const caller = await gateway.addCaller({ tenant: { [limit]: 1000 } });
      await admitted(await ask(caller, { model: "greedy", max_tokens: 990 }));
      const response = await ask(caller, { model: "greedy", max_tokens: 990 });
      const expected = ends() - Date.now();
      const { waitMs } = await refused(response, QUOTA);
      assert.equal(response.headers["x-should-retry"], "false");
      assert.ok(waitMs >= expected && waitMs < expected + 15_000, `${waitMs} ms, where it ends in ${expected} ms`);
    });
  }

  test("pitfall 3: a refusal costs nothing", async () => {
    const caller = await gateway.addCaller({ tenant: { requests_per_day: 1000, tokens_per_day: 2000, concurrent_requests: 100 } });
    await admitted(await ask(caller, { model: "greedy", max_tokens: 1000 }));
    await caller.usageOf(1);
    for (const response of await manyAtOnce(50, () => ask(caller, { max_tokens: 1500 }))) await refused(response, QUOTA);
    const response = await ask(caller, { model: "greedy", max_tokens: 998 });
    await admitted(response);
    assert.equal(response.headers["x-ratelimit-remaining-requests"], "998");
    assert.equal(response.headers["x-ratelimit-remaining-tokens"], "0");
  });

  test("pitfall 5: a max_tokens above the whole limit is a 400, and costs nothing", async () => {
    const caller = await gateway.addCaller({ tenant: { tokens_per_minute: 1000 } });
    for (let nth = 0; nth < 20; nth += 1) {
      const response = await ask(caller, { max_tokens: 100_000 });
      const { error } = await response.json();
      assert.equal(response.status, 400);
      assertErrorShape(error);
      assert.deepEqual([error.type, error.param, error.code], ["invalid_request_error", "max_tokens", "request_exceeds_limit"]);
      assert.match(error.message, /Limit 1000, Used 0, Requested 100001/);
      assert.equal(response.headers["retry-after"], undefined);
      assert.equal(response.headers["x-ratelimit-remaining-tokens"], "1000");
    }
    await admitted(await ask(caller, { max_tokens: 999 }));
  });

  test("pitfall 5: a missing max_tokens reserves the model's default", async () => {
    const caller = await gateway.addCaller({ tenant: { tokens_per_day: 1000 } });
    const response = await ask(caller);
    await admitted(response);
    assert.equal(response.headers["x-ratelimit-remaining-tokens"], String(1000 - 1 - 16));
  });

  test("pitfall 5: n and best_of multiply what is reserved", async () => {
    const caller = await gateway.addCaller({ tenant: { tokens_per_day: 1000 } });
    const body = { model: "fails with 500", prompt: ["abcd", "efgh"], max_tokens: 10, n: 2, best_of: 3 };
    const response = await caller.complete(body);
    assert.equal(response.status, 502);
    assert.equal(response.headers["x-ratelimit-remaining-tokens"], String(1000 - 2 - 2 * 3 * 10));
  });

  test("what was reserved and not used is given back", async () => {
    const caller = await gateway.addCaller({ tenant: { tokens_per_day: 1000 } });
    await admitted(await ask(caller, { max_tokens: 900 }));
    await eventually("the estimate to be replaced", async () => ((await remainingTokens(caller)) === 1000 - 9 ? true : undefined));
  });

  test("what was used above the estimate is a debt, and is repaid first", async () => {
    const caller = await gateway.addCaller({ tenant: { tokens_per_minute: 1000 } });
    await admitted(await ask(caller, { model: "far more than asked" }));
    await caller.usageOf(1);
    const response = await ask(caller);
    const { waitMs } = await refused(response, TOKENS);
    assert.equal(response.headers["x-ratelimit-remaining-tokens"], "0");
    // 3001 used of 1000, so that 2001 and the 17 of this request have to drain away: 60 ms each.
    const expected = (2001 + 17) * 60;
    assert.ok(waitMs > expected - 15_000 && waitMs <= expected, `${waitMs} ms`);
  });

  test("the limits of tenant and key both hold", async () => {
    const narrow = await gateway.addCaller({ tenant: { requests_per_day: 5 }, key: { requests_per_day: 2 } });
    const wide = await gateway.addCaller({ beside: narrow });
    for (let nth = 0; nth < 2; nth += 1) await admitted(await ask(narrow));
    const { error } = await refused(await ask(narrow), QUOTA);
    assert.match(error.message, /Limit 2, Used 2/);
    for (let nth = 0; nth < 3; nth += 1) await admitted(await ask(wide));
    const { error: ofTenant } = await refused(await ask(wide), QUOTA);
    assert.match(ofTenant.message, /Limit 5, Used 5/);
  });

  test("pitfall 39: what one tenant uses is no other's", async () => {
    const [one, other] = await manyAtOnce(2, () => gateway.addCaller({ tenant: { requests_per_day: 1 } }));
    await admitted(await ask(one));
    await refused(await ask(one), QUOTA);
    await admitted(await ask(other));
  });

  suite("pitfall 8: a place is taken until the stream ends, and free again after", () => {
    const limits = { tenant: { concurrent_requests: 1 } };
    const isFreeAgain = (caller) =>
      eventually("the place to be free again", async () => {
        const response = await ask(caller);
        if (response.status === 200) return true;
        await refused(response, CONCURRENCY);
        return undefined;
      });

    const leave = {
      "an RST of the client": (response) => response.hangUp(),
      "a FIN of the client": (response) => {
        response.close();
        gates["a FIN of the client"].open();
      },
    };
    for (const ending of Object.keys(ENDINGS)) {
      test(`after ${ending}`, async () => {
        const caller = await gateway.addCaller(limits);
        const response = await ask(caller, { model: ending, stream: true });
        await response.contains("held");
        for (let nth = 0; nth < 5; nth += 1) await refused(await ask(caller), CONCURRENCY);
        if (leave[ending]) leave[ending](response);
        else {
          gates[ending].open();
          await response.text();
        }
        await isFreeAgain(caller);
      });
    }

    for (const streaming of [false, true]) {
      test(`after a client that goes before the headers (${streaming ? "stream" : "not streaming"})`, async () => {
        const caller = await gateway.addCaller(limits);
        const seenBefore = gateway.upstream.requestsFor("before headers").length;
        const call = caller.start({ model: "before headers", prompt: "p", stream: streaming });
        await gateway.upstream.requestFor("before headers", seenBefore + 1);
        await refused(await ask(caller), CONCURRENCY);
        call.hangUp();
        await isFreeAgain(caller);
      });
    }

    test("after clients that hang up at any moment", async () => {
      const caller = await gateway.addCaller(limits);
      // From before the ledger is asked to after the first chunk: whatever it hits, the place must be free again.
      for (let ms = 0; ms < 24; ms += 1) {
        const call = caller.start({ model: ms % 2 ? "before headers" : "an RST of the client", prompt: "p", stream: true });
        await call.sent;
        await atTime(Date.now() + ms);
        call.hangUp();
        await isFreeAgain(caller);
      }
    });

    test("after an upstream that sends no headers in time", async () => {
      const caller = await gateway.addCaller(limits);
      assert.equal((await ask(caller, { model: "headers never come" })).status, 504);
      await isFreeAgain(caller);
    });

    test("after an upstream that fails", async () => {
      const caller = await gateway.addCaller(limits);
      assert.equal((await ask(caller, { model: "fails with 500" })).status, 502);
      await isFreeAgain(caller);
    });
  });

  suite("x-ratelimit-*", () => {
    const GO_DURATION = /^(0s|\d+ms|\d+(\.\d*[1-9])?s|\d+m\d+(\.\d*[1-9])?s|\d+h\d+m\d+(\.\d*[1-9])?s)$/;
    const LIMITS = { requests_per_minute: 1000, requests_per_day: 5000, tokens_per_minute: 100_000, concurrent_requests: 50 };
    const kinds = ["limit", "remaining", "reset"].flatMap((kind) => ["requests", "tokens"].map((what) => `x-ratelimit-${kind}-${what}`));

    const ANSWERS = {
      "200": [200, { prompt: "p" }],
      "a stream": [200, { prompt: "p", stream: true }],
      "400 by us": [400, { prompt: "p", max_tokens: -1 }],
      "400, a request that can never be admitted": [400, { prompt: "p", max_tokens: 100_001 }],
      "404": [404, { model: "nope", prompt: "p" }],
      "502": [502, { model: "fails with 500", prompt: "p" }],
    };
    for (const [name, [status, body]] of Object.entries(ANSWERS)) {
      test(`on ${name}`, async () => {
        const caller = await gateway.addCaller({ tenant: LIMITS });
        const response = await ask(caller, body);
        assert.equal(response.status, status, await response.text());
        const { headers } = response;
        assert.deepEqual([headers["x-ratelimit-limit-requests"], headers["x-ratelimit-limit-tokens"]], ["1000", "100000"]);
        for (const name of kinds.slice(0, 4)) assert.match(headers[name], /^\d+$/, name);
        for (const name of kinds.slice(4)) assert.match(headers[name], GO_DURATION, name);
      });
    }

    test("on 429, and the tightest of tenant and key", async () => {
      const caller = await gateway.addCaller({ tenant: { ...LIMITS, requests_per_day: 900 }, key: { requests_per_day: 1, tokens_per_month: 50 } });
      await admitted(await ask(caller));
      const { headers } = await ask(caller);
      assert.deepEqual(kinds.slice(0, 3).map((name) => headers[name]), ["1", "50", "0"]);
      assert.match(headers["x-ratelimit-reset-requests"], GO_DURATION);
      assert.ok(headers["access-control-expose-headers"].includes("x-ratelimit-remaining-tokens"));
    });

    test("on GET /v1/models, which costs nothing", async () => {
      const caller = await gateway.addCaller({ tenant: LIMITS });
      const { headers } = await caller.get("/v1/models");
      assert.deepEqual(kinds.map((name) => headers[name]), ["1000", "100000", "1000", "100000", "0s", "0s"]);
    });

    test("none without limits, nor for a key that is none", async () => {
      const caller = await gateway.addCaller();
      const stranger = { ...caller, key: "sk-nobody00-0123456789abcdef0123456789abcdef" };
      for (const response of [await ask(caller), await gateway.complete({}, { headers: { authorization: `Bearer ${stranger.key}` } })]) {
        for (const name of kinds) assert.equal(response.headers[name], undefined);
      }
    });
  });

  test("pitfall 11: nothing in the request path writes KV", async () => {
    const caller = await gateway.addCaller({ tenant: { requests_per_day: 3 } });
    const contents = await gateway.kvContents();
    for (let nth = 0; nth < 4; nth += 1) await ask(caller);
    await (await ask(await gateway.addCaller(), { stream: true })).text();
    const now = await gateway.kvContents();
    for (const [name, text] of Object.entries(contents)) assert.equal(now[name], text, name);
    assert.equal(Object.keys(now).length, Object.keys(contents).length + 2, "only the new caller's two records");
  });

  test("GET /v1/usage: limits, what is used of them, and when they reset", async () => {
    const caller = await gateway.addCaller({ tenant: { requests_per_day: 10, tokens_per_month: 1000 }, key: { concurrent_requests: 3 } });
    for (let nth = 0; nth < 2; nth += 1) await admitted(await ask(caller));
    await caller.usageOf(2);
    const response = await caller.get("/v1/usage");
    assert.equal(response.status, 200, await response.text());
    assert.equal(response.headers["x-ratelimit-remaining-requests"], "8");
    const { object, tenant, key, limits, windows } = await response.json();
    assert.deepEqual([object, tenant, key], ["usage", caller.tenant, caller.keyId]);
    const byName = limits.map(({ owner, limit, max, used, remaining }) => [owner, limit, max, used, remaining]);
    assert.deepEqual(byName, [
      ["tenant", "requests_per_day", 10, 2, 8],
      ["tenant", "tokens_per_month", 1000, 18, 982],
      ["key", "concurrent_requests", 3, 0, 3],
    ]);
    // Whole seconds, rounded up: one that looks a moment too early would be told that it has to wait for another one.
    const near = (seconds, ms) => assert.ok(seconds * 1000 >= ms && seconds * 1000 <= ms + 2000, `${seconds} s, where ${ms} ms is due`);
    near(limits[0].resets_at, endOfDay());
    near(limits[1].resets_at, endOfMonth());
    const inWindows = windows.map(({ owner, period, requests, tokens }) => [owner, period, requests, tokens]);
    for (const owner of ["tenant", "key"]) {
      for (const period of ["day", "month"]) {
        const [row] = inWindows.filter(([one, other]) => one === owner && other === period);
        assert.equal(row?.[3], 18, `${owner}'s ${period}: ${JSON.stringify(row)}`);
      }
    }
  });

  const SDKS = [
    { name: "openai-node", run: runNodeJobs },
    { name: "openai-python", missing: !E2E_PYTHON, run: (settings) => runJobs(E2E_PYTHON, [join(import.meta.dirname, "clients/python/client.py")], settings) },
  ];
  for (const sdk of SDKS) {
    suite(`${sdk.name} with its own retries`, { skip: sdk.missing ? "not set up: tests/e2e/run does that" : false }, () => {
      const run = (caller, jobs) =>
        sdk.run({
          base_url: gateway.baseURL,
          api_key: caller.key,
          jobs: jobs.map((job, nth) => ({ name: String(nth), library: "openai", stream: false, retries: "default", ...job })),
        });

      test("pitfall 14: an exhausted quota is not tried again, and not billed", async () => {
        const model = `counted for ${sdk.name}`;
        const caller = await gateway.addCaller({ tenant: { requests_per_day: 1 } });
        const results = await run(caller, [{ model }, { model }, { model, stream: true }]);
        assert.equal(results[0].text, "ok");
        for (const { error } of [results[1], results[2]]) {
          assert.deepEqual([error.class, error.status, error.code], ["RateLimitError", 429, "insufficient_quota"]);
        }
        assert.equal(gateway.upstream.requestsFor(model).length, 1);
        const usage = await caller.usageOf(1);
        assert.deepEqual([usage.requests, usage.refused], [1, 2], "one call each at the ledger");
      });

      test("pitfall 14: a limit per minute is waited for, and billed once", async () => {
        const caller = await gateway.addCaller({ tenant: { tokens_per_minute: 60_000 } });
        const greedy = (max_tokens) => ({ model: "greedy", params: { max_tokens } });
        const results = await run(caller, [greedy(59_000), greedy(3000)]);
        assert.deepEqual([results[0].text, results[1].text], ["ok", "ok"]);
        const usage = await caller.usageOf(2);
        assert.deepEqual([usage.requests, usage.completion_tokens], [2, 62_000]);
        assert.ok(usage.refused >= 1, "it was refused at first");
      });
    });
  }
});

function endOfDay() {
  return (Math.floor(Date.now() / 86_400_000) + 1) * 86_400_000;
}

function endOfMonth() {
  const now = new Date();
  return Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1);
}
