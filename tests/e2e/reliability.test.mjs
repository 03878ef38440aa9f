// What the gateway does about upstreams that fail or are silent: keepalives, retries, breakers, balance; what it tells
// the log; and what a client that does not read costs it. What each fault looks like on the wire is in faults.test.mjs.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { runJobs as runNodeJobs } from "./clients/node/openai.mjs";
import { startGateway, UPSTREAM_KEY } from "./harness/gateway.mjs";
import { runJobs } from "./harness/programs.mjs";
import { answer, asAsked, completion, events, pieces, silence, stream, talkUntilGone, textChunk, USAGE } from "./harness/scripts.mjs";
import { chunksOf, splitAtError } from "./harness/sse.mjs";
import { atTime, eventually, latch, untilTheDayHasTime, within } from "./harness/wait.mjs";

// tests/e2e/run says where this is. A run of this file alone does without it.
const { E2E_PYTHON } = process.env;
const SDKS = [
  { name: "openai-node", run: runNodeJobs },
  { name: "openai-python", missing: !E2E_PYTHON, run: (settings) => runJobs(E2E_PYTHON, [join(import.meta.dirname, "clients/python/client.py")], settings) },
];

const PROMPT = "nine byte";
const TEXT = "12345678";
const KEEPALIVE = ": keepalive\n\n";
const NOTHING = { requests: 1, prompt_tokens: 0, completion_tokens: 0, estimated: 0, refused: 0, errors: 1 };
const SERVED = { requests: 1, prompt_tokens: USAGE.prompt_tokens, completion_tokens: USAGE.completion_tokens, estimated: 0, refused: 0, errors: 0 };

const said = events(textChunk(TEXT));
const ended = events(textChunk("", "stop"), { choices: [], usage: USAGE }, "[DONE]");
const well = asAsked(answer(200, completion(TEXT)), stream(said + ended));
const refusal = (status, headers = {}, message = "not now") => answer(status, { error: { message } }, { "Content-Type": "application/json", ...headers });
const fails = refusal(500);
/** One script after the other; the last one stays. */
const oneByOne = (...scripts) => {
  let count = 0;
  return (exchange) => scripts[Math.min(count++, scripts.length - 1)](exchange);
};
const inTurns = (...scripts) => {
  let count = 0;
  return (exchange) => scripts[count++ % scripts.length](exchange);
};
const newRequestId = () => `req_${randomBytes(8).toString("hex")}`;
const named = (requestId) => ({ headers: { "x-request-id": requestId } });
const statusesOf = async (responses) => {
  const all = await Promise.all(responses);
  await Promise.all(all.map((response) => response.text()));
  return all.map(({ status }) => status);
};

/** Starts a gateway whose models are there for the whole suite, and stops it with the suite. */
function withGateway(settings) {
  const holder = {};
  before(async () => {
    holder.gateway = await startGateway(settings);
    await untilTheDayHasTime(60_000);
  });
  after(() => holder.gateway?.stop());
  return holder;
}

/** Models with the targets of others: `{ name: [models whose targets it has] }`, and fields of these targets. */
const together = (models, fields = {}) => (config) => {
  for (const [name, parts] of Object.entries(models)) {
    const targets = parts.map((part) => ({ ...config.models[part].targets[0], ...fields[part] }));
    config.models[name] = { targets };
  }
  return config;
};

suite("keepalives", { concurrency: true }, () => {
  const EVERY = 100;
  const names = ["before the first text", "between texts", "after the end", "then an error", "then too late"];
  const gates = Object.fromEntries(names.map((name) => [name, latch()]));
  const until = (name) => () => gates[name].opened;
  const pause = () => atTime(Date.now() + 3 * EVERY);
  const slow = pieces([pause, events(textChunk("1234")), pause, events(textChunk("5678")), pause, ended]);
  const holder = withGateway({
    scripts: {
      "before the first text": pieces([until("before the first text"), said + ended]),
      "between texts": pieces([said, until("between texts"), ended]),
      // It has said all, and does not hang up for a long time.
      "after the end": pieces([said + ended, until("after the end")]),
      "then an error": pieces([until("then an error"), events({ error: { message: "out of memory" } })]),
      "then too late": { script: pieces([(exchange) => exchange.closed]), upstream: { first_token_timeout_ms: 6 * EVERY } },
      "headers that are late, and a 500": async (exchange) => {
        await atTime(Date.now() + 5 * EVERY);
        await fails(exchange);
      },
      "a whole answer that is late": async (exchange) => {
        await exchange.head(200, { "Content-Type": "application/json", "Transfer-Encoding": "chunked" });
        await atTime(Date.now() + 5 * EVERY);
        await exchange.chunk(JSON.stringify(completion(TEXT)));
        await exchange.lastChunk();
      },
      second: well,
      "slow throughout": slow,
    },
    configure(config) {
      config.keepalive_ms = EVERY;
      return together({ "an error, and a second target": ["then an error", "second"], "too late, and a second target": ["then too late", "second"] })(config);
    },
  });
  const ask = (model, more = { stream: true }) => holder.gateway.complete({ model, prompt: PROMPT, ...more });

  test("one comes again and again while nothing comes from an upstream whose headers are there", async () => {
    const response = await ask("before the first text");
    await response.contains(KEEPALIVE.repeat(3));
    gates["before the first text"].open();
    const body = await response.text();
    assert.match(body, /^(: keepalive\n\n)+data: /, "nothing else was said before");
    assert.equal(chunksOf(body)[0].choices[0].text, TEXT);
  });

  test("one comes between two texts", async () => {
    const response = await ask("between texts");
    await response.contains(KEEPALIVE);
    assert.ok(response.textSoFar().startsWith("data: "), "the text came first");
    gates["between texts"].open();
    const chunks = chunksOf(await response.text());
    assert.deepEqual(chunks.map((chunk) => chunk.choices[0].finish_reason), [null, "stop"]);
  });

  test("none comes after the end, which does not wait for the upstream to hang up", async () => {
    const body = await (await ask("after the end")).text();
    gates["after the end"].open();
    assert.ok(body.endsWith("data: [DONE]\n\n") && !body.includes(KEEPALIVE), body);
  });

  test("none comes before the upstream's headers: a failure is plain HTTP", async () => {
    const response = await ask("headers that are late, and a 500");
    assert.deepEqual([response.status, JSON.parse(await response.text()).error.code], [502, "upstream_error"]);
  });

  test("none comes into an answer that does not stream", async () => {
    const response = await ask("a whole answer that is late", {});
    assert.equal(JSON.parse(await response.text()).choices[0].text, TEXT);
  });

  test("after one, a failure is an error event, and no other target is tried", async () => {
    const requestId = newRequestId();
    const caller = await holder.gateway.addCaller();
    const response = await caller.complete({ model: "an error, and a second target", prompt: PROMPT, stream: true }, named(requestId));
    await response.contains(KEEPALIVE);
    gates["then an error"].open();
    const [chunks, error] = splitAtError(await response.text());
    assert.deepEqual([response.status, chunks, error.code, response.headers["x-upstream-attempts"]], [200, [], "upstream_error", "1"]);
    assert.equal(holder.gateway.upstream.requestsFor("second").length, 0);
    const { status, ended: how, error: code, attempts } = await holder.gateway.recordOf(requestId);
    assert.deepEqual([status, how, code, attempts], [200, "error", "upstream_error", 1]);
    assert.equal((await caller.usageOf(1)).errors, 1);
  });

  test("after one, a first text that does not come in time is an error event too", async () => {
    const response = await ask("too late, and a second target");
    const [chunks, error] = splitAtError(await response.text());
    assert.deepEqual([chunks, error.code], [[], "upstream_timeout"]);
    assert.ok(response.textSoFar().startsWith(KEEPALIVE));
    assert.equal(holder.gateway.upstream.requestsFor("second").length, 0);
    const request = await holder.gateway.upstream.requestFor("then too late");
    await request.connectionClosed("the upstream's connection to close", 1000);
  });

  for (const { name, missing, run } of SDKS) {
    test(`pitfall 28: ${name} does not see them`, { skip: missing ? "not set up: tests/e2e/run does that" : false }, async () => {
      const { baseURL, key } = holder.gateway;
      const jobs = [{ name: "slow", library: "openai", model: "slow throughout", stream: true }];
      const { slow: seen } = await run({ base_url: baseURL, api_key: key, jobs });
      assert.deepEqual([seen.error, seen.text, seen.finish_reason], [undefined, TEXT, "stop"]);
    });
  }
});

suite("trying again", { concurrency: true }, () => {
  const retry = { same_target_attempts: 3, max_attempts: 3, base_backoff_ms: 200, max_backoff_ms: 300, max_wait_ms: 2500, min_retries_per_10s: 10_000 };
  // Above the backoff: what a machine that has other things to do may add to a pause.
  const SLACK = 700;
  const REFUSED = ["400", "404", "413", "422"];
  const held = latch();
  const holder = withGateway({
    scripts: {
      ...Object.fromEntries(REFUSED.map((status) => [status, refusal(Number(status))])),
      second: well,
      "401": refusal(401),
      "the third time": oneByOne(fails, (exchange) => exchange.reset(), well),
      "the third time, as a stream": oneByOne(fails, (exchange) => exchange.reset(), well),
      "always fails": fails,
      "429, then well": oneByOne(refusal(429, { "Retry-After": "1" }), well),
      "429 in milliseconds, then well": oneByOne(refusal(429, { "Retry-After-Ms": "1200" }), well),
      "503, then well": oneByOne(refusal(503, { "Retry-After": "1" }), well),
      "429 for long": refusal(429, { "Retry-After": "30" }),
      "503 for long": refusal(503, { "Retry-After": "30" }),
      "breaks off": pieces([said, () => held.opened, (exchange) => exchange.reset()]),
      "429 and a client that does not wait": refusal(429, { "Retry-After": "2" }),
    },
    configure(config) {
      config.retry = retry;
      return together(Object.fromEntries(REFUSED.map((status) => [`${status}, and a second target`, [status, "second"]])))(config);
    },
  });
  const callsOf = (model) => holder.gateway.upstream.requestsFor(model);
  const timesOf = (model) => callsOf(model).map(({ at }) => at);

  for (const status of REFUSED) {
    test(`pitfall 32: ${status} is the request's own fault, and tried once`, async () => {
      for (const model of [status, `${status}, and a second target`]) {
        const response = await holder.gateway.complete({ model, prompt: PROMPT });
        assert.deepEqual([response.status, response.headers["x-upstream-attempts"]], [Number(status), "1"], await response.text());
      }
      assert.equal(callsOf(status).length, 2);
      assert.equal(callsOf("second").length, 0);
    });
  }

  test("a key that the upstream refuses is not tried again", async () => {
    const response = await holder.gateway.complete({ model: "401", prompt: PROMPT });
    assert.deepEqual([response.status, callsOf("401").length], [502, 1], await response.text());
  });

  for (const [model, streaming] of [["the third time", false], ["the third time, as a stream", true]]) {
    test(`one request is one promise and one settlement, whatever was tried (${model})`, async () => {
      const caller = await holder.gateway.addCaller({ tenant: { concurrent_requests: 1, requests_per_day: 10 } });
      const requestId = newRequestId();
      const response = await caller.complete({ model, prompt: PROMPT, stream: streaming }, named(requestId));
      assert.equal(response.status, 200, await response.text());
      await response.text();
      assert.equal(response.headers["x-upstream-attempts"], "3");
      assert.equal(response.headers["x-ratelimit-remaining-requests"], "9");
      assert.deepEqual(await caller.usageOf(1), SERVED);
      const { attempts, ended: how, error } = await holder.gateway.recordOf(requestId);
      assert.deepEqual([attempts, how, error], [3, "complete", null]);
      assert.equal(callsOf(model).length, 3);
    });
  }

  test("pitfall 33: the pauses grow, are not all the same, and are bounded", async () => {
    const caller = await holder.gateway.addCaller();
    const COUNT = 12;
    const gaps = [[], []];
    for (let nth = 0; nth < COUNT; nth += 1) {
      const before = callsOf("always fails").length;
      const response = await caller.complete({ model: "always fails", prompt: PROMPT });
      assert.deepEqual([response.status, response.headers["x-upstream-attempts"]], [502, "3"], await response.text());
      const [first, second, third, ...more] = timesOf("always fails").slice(before);
      assert.equal(more.length, 0);
      gaps[0].push(second - first);
      gaps[1].push(third - second);
    }
    assert.ok(Math.max(...gaps[0]) <= retry.base_backoff_ms + SLACK, `${gaps[0]}`);
    assert.ok(Math.max(...gaps[1]) <= retry.max_backoff_ms + SLACK, `${gaps[1]}`);
    // Twelve draws from 0 to 200 ms that all lie within 20: once in 10^10 runs.
    assert.ok(Math.max(...gaps[0]) - Math.min(...gaps[0]) > 20, `${gaps[0]}`);
    const { requests, errors, prompt_tokens } = await caller.usageOf(COUNT);
    assert.deepEqual([requests, errors, prompt_tokens], [COUNT, COUNT, 0]);
  });

  for (const [model, ms] of [["429, then well", 1000], ["429 in milliseconds, then well", 1200], ["503, then well", 1000]]) {
    test(`Retry-After is waited for: ${model}`, async () => {
      const response = await holder.gateway.complete({ model, prompt: PROMPT });
      assert.deepEqual([response.status, response.headers["x-upstream-attempts"]], [200, "2"], await response.text());
      const [first, second] = timesOf(model);
      assert.ok(second - first >= ms, `${second - first} ms`);
      assert.ok(second - first <= ms + retry.base_backoff_ms + SLACK, `${second - first} ms`);
    });
  }

  for (const [model, expected] of [["429 for long", 429], ["503 for long", 502]]) {
    test(`a Retry-After beyond max_wait_ms is handed on, and not waited for: ${model}`, async () => {
      const began = Date.now();
      const response = await holder.gateway.complete({ model, prompt: PROMPT });
      assert.deepEqual([response.status, response.headers["retry-after"]], [expected, "30"], await response.text());
      assert.ok(Date.now() - began < retry.max_wait_ms, "nobody waited");
      assert.equal(callsOf(model).length, 1);
    });
  }

  test("pitfall 31: nothing is tried again once text has gone out", async () => {
    const response = await holder.gateway.complete({ model: "breaks off", prompt: PROMPT, stream: true });
    await response.contains(TEXT);
    held.open();
    const [chunks, error] = splitAtError(await response.text());
    assert.deepEqual([chunks.map((chunk) => chunk.choices[0].text), error.code], [[TEXT], "upstream_incomplete"]);
    assert.equal(callsOf("breaks off").length, 1);
  });

  test("a client that goes during a pause ends the request", async () => {
    const model = "429 and a client that does not wait";
    const caller = await holder.gateway.addCaller({ tenant: { concurrent_requests: 1 } });
    const requestId = newRequestId();
    const call = caller.start({ model, prompt: PROMPT }, named(requestId));
    const request = await holder.gateway.upstream.requestFor(model);
    await eventually("the upstream to have answered", () => (request.isUnderWay ? undefined : true));
    call.hangUp();
    const { ended: how, attempts } = await holder.gateway.recordOf(requestId);
    assert.deepEqual([how, attempts], ["client_gone", 1]);
    assert.deepEqual(await caller.usageOf(1), NOTHING);
    assert.equal(callsOf(model).length, 1);
  });
});

suite("the retry budget", () => {
  const BUDGET = { budget_percent: 20, min_retries_per_10s: 5 };
  const holder = withGateway({
    scripts: { "always fails": fails },
    configure(config) {
      config.retry = { same_target_attempts: 3, max_attempts: 3, base_backoff_ms: 1, max_backoff_ms: 1, ...BUDGET };
      return config;
    },
  });

  test("pitfall 33: of 100 requests that fail, the upstream sees a fifth more, and the minimum", async () => {
    const COUNT = 100;
    const began = Date.now();
    for (let nth = 0; nth < COUNT; nth += 10) {
      const round = Array.from({ length: 10 }, () => holder.gateway.complete({ model: "always fails", prompt: PROMPT, stream: nth % 20 === 0 }));
      assert.deepEqual(new Set(await statusesOf(round)), new Set([502]));
    }
    // The minimum is there again every ten seconds, should the machine take so long.
    const windows = 1 + Math.floor((Date.now() - began) / 10_000);
    const most = COUNT * (1 + BUDGET.budget_percent / 100) + BUDGET.min_retries_per_10s * windows;
    const calls = holder.gateway.upstream.requestsFor("always fails").length;
    assert.ok(calls > COUNT && calls <= most, `${calls} calls, and ${most} at the most`);
  });
});

suite("breakers", { concurrency: true }, () => {
  const breaker = { window_ms: 30_000, min_calls: 4, failure_rate_percent: 50, open_ms: 2000, max_open_ms: 4000 };
  const UNAVAILABLE = [503, "upstream_unavailable"];
  const gates = { probe: latch(), "broken streams": latch() };
  const opening = { "opens and closes": well, "fails first": well, "still fails": fails };
  const holder = withGateway({
    scripts: {
      ...Object.fromEntries(Object.entries(opening).map(([name, then]) => [name, oneByOne(fails, fails, fails, fails, then)])),
      probed: oneByOne(fails, fails, fails, fails, async (exchange) => {
        await gates.probe.opened;
        await well(exchange);
      }, well),
      second: well,
      "broken streams": pieces([said, (exchange) => exchange.reset()]),
      "half of them": inTurns(well, fails),
      "a third of them": inTurns(well, well, fails),
      silent: silence,
      talking: pieces([talkUntilGone(said)]),
      refused: refusal(400),
      "limited, then well": oneByOne(refusal(429, { "Retry-After": "2" }), well),
      "limited first": refusal(429, { "Retry-After": "30" }),
    },
    configure(config) {
      config.breaker = breaker;
      return together({ "fails first, and a second": ["fails first", "second"], "limited first, and a second": ["limited first", "second"] })(config);
    },
  });
  const callsOf = (model) => holder.gateway.upstream.requestsFor(model).length;
  const ask = (model, more = {}) => holder.gateway.complete({ model, prompt: PROMPT, ...more });

  /** Fails until the breaker of a model opens, and says until when it is open. */
  async function open(model, more) {
    for (let nth = 0; nth < breaker.min_calls; nth += 1) assert.equal((await ask(model, more)).status, 502);
    return Date.now() + breaker.open_ms;
  }

  /** What a request is told that reaches no upstream. */
  async function refused(model, [status, code], more) {
    const response = await ask(model, more);
    const { error } = JSON.parse(await response.text());
    assert.deepEqual([response.status, error.code], [status, code]);
    assert.equal(response.headers["x-upstream-attempts"], undefined);
    const seconds = Number(response.headers["retry-after"]);
    assert.ok(seconds >= 1 && seconds <= 30, `retry-after: ${seconds}`);
    return seconds;
  }

  test("one opens after failures: 503, Retry-After, no upstream call, and nothing is promised; then it closes again", async () => {
    const model = "opens and closes";
    const caller = await holder.gateway.addCaller({ tenant: { requests_per_day: 100 } });
    const openUntil = await open(model);
    for (const stream of [false, true]) {
      const requestId = newRequestId();
      const response = await caller.complete({ model, prompt: PROMPT, stream }, named(requestId));
      assert.deepEqual([response.status, JSON.parse(await response.text()).error.code], UNAVAILABLE);
      assert.equal(response.headers["x-ratelimit-remaining-requests"], "100");
      assert.ok(Number(response.headers["retry-after"]) >= 1);
      const { ended: how, error, attempts, target } = await holder.gateway.recordOf(requestId);
      assert.deepEqual([how, error, attempts, target], ["error", "upstream_unavailable", 0, null]);
    }
    assert.ok(Date.now() < openUntil, "this machine was too slow for what is asked here");
    assert.equal(callsOf(model), breaker.min_calls);
    await holder.gateway.logWith(`${model}\` is passed over for ${breaker.open_ms} ms: 4 of its last 4 calls failed`);
    await atTime(openUntil + 50);
    assert.deepEqual(await statusesOf(Array.from({ length: 1 }, () => caller.complete({ model, prompt: PROMPT }))), [200]);
    await holder.gateway.logWith(`${model}\` is well again`);
    assert.deepEqual(await statusesOf(Array.from({ length: 4 }, () => caller.complete({ model, prompt: PROMPT }))), [200, 200, 200, 200]);
    assert.deepEqual(await caller.usageOf(5), { ...SERVED, requests: 5, prompt_tokens: 35, completion_tokens: 10 });
  });

  test("half open, one request is the probe, and the others wait for what becomes of it", async () => {
    await atTime((await open("probed")) + 50);
    const probe = ask("probed");
    await holder.gateway.upstream.requestFor("probed", breaker.min_calls + 1);
    for (let nth = 0; nth < 4; nth += 1) await refused("probed", UNAVAILABLE, { stream: nth % 2 === 0 });
    assert.equal(callsOf("probed"), breaker.min_calls + 1, "one probe");
    gates.probe.open();
    assert.equal((await probe).status, 200);
    assert.equal((await ask("probed")).status, 200);
  });

  test("a probe that fails opens it again, for longer", async () => {
    await atTime((await open("still fails")) + 50);
    assert.equal((await ask("still fails")).status, 502);
    assert.ok((await refused("still fails", UNAVAILABLE)) >= 3, "twice as long");
    assert.equal(callsOf("still fails"), breaker.min_calls + 1);
    await holder.gateway.logWith("is passed over for another 4000 ms: it still fails");
  });

  test("with a second target, a target whose breaker is open is not asked at all", async () => {
    const model = "fails first, and a second";
    for (let nth = 0; nth < breaker.min_calls; nth += 1) {
      const response = await ask(model);
      assert.deepEqual([response.status, response.headers["x-upstream-attempts"]], [200, "2"]);
    }
    for (const stream of [false, true]) {
      const response = await ask(model, { stream });
      assert.deepEqual([response.status, response.headers["x-upstream-attempts"]], [200, "1"]);
    }
    assert.equal(callsOf("fails first"), breaker.min_calls);
  });

  test("streams that break off count as failures", async () => {
    for (let nth = 0; nth < breaker.min_calls; nth += 1) await (await ask("broken streams", { stream: true })).text();
    await refused("broken streams", UNAVAILABLE);
  });

  test("half of the calls failing is too many, a third is not", async () => {
    for (const expected of [200, 502, 200, 502]) assert.equal((await ask("half of them")).status, expected);
    await refused("half of them", UNAVAILABLE);
    for (let nth = 0; nth < 4; nth += 1) for (const expected of [200, 200, 502]) assert.equal((await ask("a third of them")).status, expected);
  });

  test("pitfall 32: clients that go, and requests at fault, say nothing of a target", async () => {
    for (let nth = 1; nth <= 2 * breaker.min_calls; nth += 1) {
      const caller = await holder.gateway.addCaller();
      const call = caller.start({ model: "silent", prompt: PROMPT, stream: nth % 2 === 0 });
      const request = await holder.gateway.upstream.requestFor("silent", nth);
      call.hangUp();
      await request.connectionClosed("the upstream to be cancelled", 1000);

      const talking = await ask("talking", { stream: true });
      await talking.contains(TEXT);
      talking.hangUp();
      await (await holder.gateway.upstream.requestFor("talking", nth)).connectionClosed("the upstream to be cancelled", 1000);

      assert.equal((await ask("refused")).status, 400);
    }
  });

  test("a target at its rate limit cools for as long as it says", async () => {
    const model = "limited, then well";
    assert.equal((await ask(model)).status, 429);
    const until = Date.now() + 2000;
    await refused(model, [429, "upstream_rate_limited"]);
    assert.ok(Date.now() < until, "this machine was too slow for what is asked here");
    assert.equal(callsOf(model), 1);
    await atTime(until + 50);
    assert.equal((await ask(model)).status, 200);
  });

  test("with a second target, one that cools is not asked at all", async () => {
    const model = "limited first, and a second";
    assert.deepEqual(await statusesOf([await ask(model), await ask(model), await ask(model)]), [200, 200, 200]);
    assert.equal(callsOf("limited first"), 1);
  });
});

suite("balance, the log, and clients that do not read", { concurrency: true }, () => {
  const IDLE = 300;
  const holding = pieces([said, (exchange) => exchange.closed]);
  const MARKS = {
    prompt: "mark-of-the-prompt",
    text: "mark-of-the-text",
    user: "mark-of-the-user",
    stop: "mark-of-the-stop",
    suffix: "mark-of-the-suffix",
    refusal: "mark-of-the-refusal",
    trace: "mark-of-the-tracestate",
  };
  const marked = asAsked(answer(200, completion(MARKS.text)), stream(events(textChunk(MARKS.text)) + ended));
  const flood = { sent: 0, goesOn: true };
  const flaps = {
    "500": fails,
    "429": refusal(429, { "Retry-After": "1" }),
    reset: (exchange) => exchange.reset(),
  };
  const FLAPPING = SDKS.flatMap(({ name: sdk }) =>
    Object.entries(flaps).flatMap(([what, flap]) => [false, true].map((streaming) => ({ sdk, flap, streaming, model: `${what} and well in turns (${sdk}, stream: ${streaming})` }))),
  );
  const weights = { light: { order: 0, weight: 1 }, heavy: { order: 0, weight: 3 } };
  const holder = withGateway({
    scripts: {
      ...Object.fromEntries(["light", "heavy", "last"].map((name) => [name, well])),
      ...Object.fromEntries(["one", "other"].map((name) => [name, holding])),
      ...Object.fromEntries(FLAPPING.map(({ model, flap }) => [model, inTurns(flap, well)])),
      "marked": marked,
      "marked and broken": pieces([events(textChunk(MARKS.text)), (exchange) => exchange.close()]),
      "marked and refused": refusal(400, {}, `${MARKS.prompt} ${MARKS.refusal}`),
      "marked and failing": fails,
      silent: silence,
      holding,
      flood: {
        script: pieces([async (exchange) => {
          const event = said.repeat(500);
          while (flood.goesOn && !exchange.isClosed()) {
            await exchange.chunk(event);
            flood.sent += event.length;
          }
        }, ended]),
        upstream: { idle_timeout_ms: IDLE },
      },
    },
    configure: (config) =>
      together(
        { weighted: ["last", "light", "heavy"], loaded: ["one", "other"] },
        { ...weights, last: { order: 1 }, one: { order: 0 }, other: { order: 0 } },
      )(config),
  });
  const callsOf = (model) => holder.gateway.upstream.requestsFor(model).length;

  test("targets of the lowest order are asked first, by weight", async () => {
    // Each request goes to `heavy` with a probability of 3/4: 60 of 80, give or take five times 3.9.
    const COUNT = 80;
    for (let nth = 0; nth < COUNT; nth += 1) assert.equal((await holder.gateway.complete({ model: "weighted", prompt: PROMPT })).status, 200);
    const [light, heavy, last] = ["light", "heavy", "last"].map(callsOf);
    assert.deepEqual([light + heavy, last], [COUNT, 0]);
    assert.ok(heavy > 40 && heavy < COUNT, `${light} and ${heavy}`);
  });

  test("of two that weigh the same, the one with less to do is asked", async () => {
    const responses = [];
    for (let nth = 0; nth < 10; nth += 1) {
      const response = await holder.gateway.complete({ model: "loaded", prompt: PROMPT, stream: true });
      await response.contains(TEXT);
      responses.push(response);
    }
    assert.deepEqual([callsOf("one"), callsOf("other")], [5, 5]);
    for (const response of responses) response.hangUp();
  });

  for (const { name, missing, run } of SDKS) {
    test(`pitfall 14: ${name} with its own retries before upstreams that fail and are well in turns`, { skip: missing ? "not set up: tests/e2e/run does that" : false }, async () => {
      const caller = await holder.gateway.addCaller();
      const own = FLAPPING.filter(({ sdk }) => sdk === name);
      const jobs = own.map(({ model, streaming }) => ({ name: model, library: "openai", model, stream: streaming, retries: "default" }));
      const results = await run({ base_url: holder.gateway.baseURL, api_key: caller.key, jobs });
      for (const { model } of own) {
        const { text, error } = results[model];
        assert.deepEqual([model, error, text, callsOf(model)], [model, undefined, TEXT, 2]);
      }
      const served = own.length;
      const sum = await caller.usageOf(2 * served);
      const { prompt_tokens, completion_tokens } = USAGE;
      assert.deepEqual(sum, { requests: 2 * served, prompt_tokens: served * prompt_tokens, completion_tokens: served * completion_tokens, estimated: 0, refused: 0, errors: served });
    });
  }

  test("a trace goes on with a span of ours, and where there is none, none is made up", async () => {
    const id = "4bf92f3577b34da6a3ce929d0e0e4736";
    const ask = async (headers) => {
      const requestId = newRequestId();
      const before = callsOf("marked");
      const response = await holder.gateway.complete({ model: "marked", prompt: requestId }, { headers: { ...named(requestId).headers, ...headers } });
      assert.equal(response.status, 200, await response.text());
      const seen = holder.gateway.upstream.requestsFor("marked").slice(before).find(({ json }) => json.prompt === requestId);
      return { seen, record: await holder.gateway.recordOf(requestId) };
    };
    const spans = new Set(["00f067aa0ba902b7"]);
    for (let nth = 1; nth <= 2; nth += 1) {
      const { seen, record } = await ask({ traceparent: `00-${id}-00f067aa0ba902b7-01`, tracestate: `a=${MARKS.trace}` });
      const [, span] = seen.header("traceparent").match(`^00-${id}-([0-9a-f]{16})-01$`);
      spans.add(span);
      assert.equal(spans.size, nth + 1, "a new span each time");
      assert.equal(record.trace_id, id);
    }
    for (const headers of [{}, { traceparent: "nonsense" }]) {
      const { seen, record } = await ask(headers);
      assert.deepEqual([seen.header("traceparent"), record.trace_id], [undefined, undefined]);
    }
  });

  test("the log has a line for each request, and nothing of prompts, texts or secrets", async () => {
    const caller = await holder.gateway.addCaller();
    const models = { marked: [200, "complete"], "marked and broken": [200, "error"], "marked and refused": [400, "error"], "marked and failing": [502, "error"] };
    for (const [model, [status, how]] of Object.entries(models)) {
      const requestId = newRequestId();
      const { prompt, user, stop, suffix } = MARKS;
      const response = await caller.complete({ model, prompt, user, stop, suffix, stream: true }, named(requestId));
      const body = await response.text();
      assert.equal(response.status, status, body);
      const record = await holder.gateway.recordOf(requestId);
      assert.deepEqual([record.status, record.ended, record.model, record.tenant, record.key], [status, how, model, caller.tenant, caller.keyId]);
    }
    const log = holder.gateway.logSoFar();
    const host = `127.0.0.1:${holder.gateway.upstream.port}`;
    for (const secret of [...Object.values(MARKS), caller.key, holder.gateway.key, UPSTREAM_KEY, host]) {
      assert.ok(!log.includes(secret), `${secret} is in the log`);
    }
  });

  for (const [model, streaming, reads, used] of [["silent", false, false, [0, 0]], ["silent", true, false, [0, 0]], ["holding", true, true, [3, 2]]]) {
    test(`the log tells of a client that goes (${model}, stream: ${streaming})`, async () => {
      const caller = await holder.gateway.addCaller();
      const requestId = newRequestId();
      const before = callsOf(model);
      const call = caller.start({ model, prompt: PROMPT, stream: streaming }, named(requestId));
      if (reads) await (await call.response).contains(TEXT);
      else await holder.gateway.upstream.requestFor(model, before + 1);
      call.hangUp();
      const record = await holder.gateway.recordOf(requestId);
      assert.deepEqual([record.ended, record.attempts, record.prompt_tokens, record.completion_tokens], ["client_gone", 1, ...used]);
      const sum = await caller.usageOf(1);
      assert.deepEqual([sum.requests, sum.prompt_tokens, sum.completion_tokens], [1, ...used]);
    });
  }

  test("pitfall 30: a client that stops reading stops the upstream, and is no silence of it", async () => {
    const socket = connect({ host: "127.0.0.1", port: holder.gateway.port });
    socket.pause();
    const requestId = newRequestId();
    const body = JSON.stringify({ model: "flood", prompt: PROMPT, stream: true });
    const head = { host: "127.0.0.1", authorization: `Bearer ${holder.gateway.key}`, "content-type": "application/json", "content-length": body.length, "x-request-id": requestId, connection: "close" };
    const lines = Object.entries(head).map(([name, value]) => `${name}: ${value}\r\n`).join("");
    socket.write(`POST /v1/completions HTTP/1.1\r\n${lines}\r\n${body}`);

    // For three times the silence that is allowed, not a byte more goes in.
    const STILL = 3 * IDLE;
    let [sent, since] = [0, Date.now()];
    await eventually("the upstream's writes to block", () => {
      if (flood.sent !== sent || sent === 0) [sent, since] = [flood.sent, Date.now()];
      return Date.now() - since > STILL ? true : undefined;
    });
    // The kernel has buffers too, of some megabytes a connection; the Worker has its own share on top.
    assert.ok(sent < 16 << 20, `${sent} bytes went in`);

    flood.goesOn = false;
    const received = [];
    socket.on("data", (bytes) => received.push(bytes));
    socket.resume();
    await within(once(socket, "close"), "the stream to end once it is read");
    const text = Buffer.concat(received).toString("latin1");
    assert.ok(text.includes("data: [DONE]"), text.slice(-300));
    assert.ok(!text.includes('"error"'), "no silence was seen");
    assert.deepEqual([(await holder.gateway.recordOf(requestId)).ended], ["complete"]);
  });
});
