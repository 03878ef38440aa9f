// What becomes of an upstream's failures: which reach the client as its own, which are ours to answer for, and
// what must never be told.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { startGateway, UPSTREAM_KEY } from "./harness/gateway.mjs";
import { portWithoutListener } from "./harness/ports.mjs";
import { answer, completion, cut, events, gzipAnswer, silence, stream, textChunk } from "./harness/scripts.mjs";
import { assertErrorShape, chunksOf } from "./harness/sse.mjs";

const refusal = { message: "Too many logprobs", type: "BadRequestError", param: "logprobs", code: "too_many_logprobs" };
const GIVEN = ["invalid_request_error", "logprobs", "too_many_logprobs", "Too many logprobs"];
const BROKEN = ["api_error", null, "upstream_error"];
const AUTH = ["api_error", null, "upstream_auth_error"];
const INTERNAL = "account acct_4711 on gpu-7.internal";
const JSON_TYPE = { "Content-Type": "application/json" };

// name → [script, status, [type, param, code, message]]
const CASES = {
  "400": [answer(400, { error: refusal }), 400, GIVEN],
  "404": [answer(404, { error: refusal }), 404, GIVEN],
  "413": [answer(413, { error: refusal }), 413, GIVEN],
  "422": [answer(422, { error: refusal }), 422, GIVEN],
  "400, gzip": [gzipAnswer(400, { error: refusal }), 400, GIVEN],
  "400 with an integer code": [answer(400, { error: { ...refusal, code: 400 } }), 400, ["invalid_request_error", "logprobs", undefined, "Too many logprobs"]],
  "400 with missing keys": [answer(400, { error: { message: "No" } }), 400, ["invalid_request_error", null, null, "No"]],
  "400 with error as a string": [answer(400, { error: "No" }), 400, ["invalid_request_error", null, null, "No"]],
  "422 with detail": [answer(422, { detail: "No" }), 422, ["invalid_request_error", null, null, /./]],
  "400 with HTML": [answer(400, `<html>${INTERNAL}</html>`), 400, ["invalid_request_error", null, null, /./]],
  "400 without a body": [answer(400), 400, ["invalid_request_error", null, null, /./]],
  "401": [answer(401, { error: { message: INTERNAL } }), 502, AUTH],
  "402": [answer(402, { error: { message: INTERNAL } }), 502, AUTH],
  "403": [answer(403, { error: { message: INTERNAL } }), 502, AUTH],
  "429": [answer(429, { error: { message: INTERNAL } }), 429, ["requests", null, "upstream_rate_limited"]],
  "500": [answer(500, { error: { message: INTERNAL } }), 502, BROKEN],
  "500 with HTML": [answer(500, `<html>${INTERNAL}</html>`), 502, BROKEN],
  "503": [answer(503, { error: { message: INTERNAL } }), 502, BROKEN],
  "529": [answer(529, { error: { message: INTERNAL } }), 502, BROKEN],
  "a redirect": [answer(302, "", { Location: "http://127.0.0.1:1/" }), 502, BROKEN],
  "200 with HTML": [answer(200, `<html>${INTERNAL}</html>`), 502, BROKEN],
  "200 with nothing": [answer(200, "", JSON_TYPE), 502, BROKEN],
  "200 with half a JSON": [answer(200, '{"id":"x","choices":[{"text":"ha', JSON_TYPE), 502, BROKEN],
  "200 with JSON that is no completion": [answer(200, { hello: INTERNAL }), 502, BROKEN],
  "200 with no choices": [answer(200, { ...completion("x"), choices: [] }), 502, BROKEN],
  "200 with an error": [answer(200, { error: { message: INTERNAL, type: "server_error" } }), 502, BROKEN],
  "200 cut amid the body": [cutShort(completion("x")), 502, ["api_error", null, /^upstream_(error|incomplete)$/]],
  "a connection reset before the head": [(exchange) => exchange.reset(), 502, BROKEN],
  "something that is not HTTP": [(exchange) => exchange.send("SSH-2.0-OpenSSH_9.6\r\n\r\n").then(exchange.close), 502, BROKEN],
};

suite("upstream failures", () => {
  let gateway;
  before(async () => {
    const refusedPort = await portWithoutListener();
    const slow = { headers_timeout_ms: 250, total_timeout_ms: 250 };
    gateway = await startGateway({
      scripts: {
        ...cases("openai-completions"),
        ...cases("openai-chat"),
        refused: { script: silence, upstream: { base_url: `http://127.0.0.1:${refusedPort}/v1` } },
        slow: { script: silence, upstream: slow },
        "slow body": {
          // Its head comes in time: the limit on headers must not cut the body, however long that takes.
          script: async (exchange) => {
            await exchange.head(200, { "Content-Type": "text/event-stream", "Transfer-Encoding": "chunked" });
            await exchange.chunk(events(textChunk("a")));
            await new Promise((resolve) => setTimeout(resolve, 3 * slow.headers_timeout_ms));
            await exchange.chunk(events(textChunk("b", "stop"), "[DONE]"));
            await exchange.lastChunk();
          },
          upstream: slow,
        },
        "429 with Retry-After": answer(429, { error: { message: "slow down" } }, { ...JSON_TYPE, "Retry-After": "7" }),
        leaky: async (exchange) => {
          const host = exchange.request.header("host");
          const message = `Bad key ${UPSTREAM_KEY} at http://${host}/v1/completions (http%3A%2F%2F${encodeURIComponent(host)}, ${encodeURIComponent(UPSTREAM_KEY)})`;
          await answer(400, { error: { message, type: "x", param: UPSTREAM_KEY, code: `at ${host}` } })(exchange);
        },
        "leaky into the log": answer(500, { error: { message: `out of memory with ${UPSTREAM_KEY}` } }),
        first: answer(500, "broken"),
        second: answer(200, completion("from the second")),
        "first stream": cut("", "reset"),
        "second stream": stream(events(textChunk("from the second", "stop"), "[DONE]")),
        "first refuses": answer(400, { error: refusal }),
        "never asked": answer(200, completion("no")),
        "keep-alive, then closed": keepAliveThenClose,
        "SSE for a plain answer": stream(events(textChunk("x", "stop"), "[DONE]")),
      },
      configure: (config) => {
        const both = (...names) => ({ targets: names.flatMap((name) => config.models[name].targets) });
        Object.assign(config.models, {
          fallback: both("first", "second"),
          "fallback, unreachable first": both("refused", "second"),
          "fallback, stream": both("first stream", "second stream"),
          "no fallback": both("first refuses", "never asked"),
        });
        return config;
      },
    });
  });
  after(() => gateway?.stop());

  const call = (model, more = {}) => gateway.complete({ model, prompt: "p", ...more });

  async function failed(response, status, [type, param, code, message]) {
    const text = await response.text();
    assert.equal(response.status, status, text);
    assert.match(response.headers["content-type"], /^application\/json/);
    assert.equal(response.headers["content-encoding"], undefined);
    const { error } = JSON.parse(text);
    assertErrorShape(error);
    assert.equal(error.type, type);
    assert.equal(error.param, param);
    if (code instanceof RegExp) assert.match(error.code, code);
    else if (code !== undefined) assert.equal(error.code, code);
    if (typeof message === "string") assert.equal(error.message, message);
    assert.ok(!text.includes(INTERNAL), "what an upstream says of itself is not for clients");
    assert.ok(!text.includes(UPSTREAM_KEY));
  }

  for (const dialect of ["openai-completions", "openai-chat"]) {
    for (const [name, [, status, expected]] of Object.entries(CASES)) {
      for (const streaming of [false, true]) {
        test(`${name} (${dialect}${streaming ? ", streaming" : ""})`, async () => {
          const response = await call(`${name} ${dialect}`, { stream: streaming });
          await failed(response, status, expected);
        });
      }
    }
  }

  for (const streaming of [false, true]) {
    test(`a refused connection is a 502 (stream: ${streaming})`, async () => {
      await failed(await call("refused", { stream: streaming }), 502, BROKEN);
    });

    test(`headers that never come are a 504, and the upstream is let go (stream: ${streaming})`, async () => {
      await failed(await call("slow", { stream: streaming }), 504, ["api_error", null, "upstream_timeout"]);
      const request = await gateway.upstream.requestFor("slow", streaming ? 2 : 1);
      await request.connectionClosed("the slow upstream's connection to be closed");
    });
  }

  test("the limit on headers does not cut a long body", async () => {
    const text = await (await call("slow body", { stream: true })).text();
    assert.equal(chunksOf(text).map((chunk) => chunk.choices[0].text).join(""), "ab");
  });

  test("429 hands the upstream's Retry-After on", async () => {
    const response = await call("429 with Retry-After");
    await failed(response, 429, ["requests", null, "upstream_rate_limited"]);
    assert.equal(response.headers["retry-after"], "7");
  });

  test("pitfall 35: neither the upstream's key nor its address gets out, plain or percent-encoded", async () => {
    const response = await call("leaky");
    const text = await response.text();
    assert.equal(response.status, 400);
    const host = `127.0.0.1:${gateway.upstream.port}`;
    for (const secret of [UPSTREAM_KEY, host, encodeURIComponent(host)]) assert.ok(!text.includes(secret), text);
    for (const value of Object.values(response.headers)) assert.ok(!String(value).includes(UPSTREAM_KEY));
  });

  test("pitfall 35: the log tells of a failure, and no key", async () => {
    const response = await call("leaky into the log");
    assert.equal(response.status, 502);
    const log = await gateway.logWith("out of memory");
    for (const secret of [UPSTREAM_KEY, gateway.key]) assert.ok(!log.includes(secret));
  });

  test("pitfall 21: an event stream where JSON was asked for is no answer, or is read as one", async () => {
    const response = await call("SSE for a plain answer");
    const answered = await response.json();
    if (response.status === 200) assert.equal(answered.choices[0].text, "x");
    else assert.deepEqual([response.status, answered.error.code], [502, "upstream_error"]);
  });

  for (const model of ["fallback", "fallback, unreachable first"]) {
    test(`the next target answers where the first failed (${model})`, async () => {
      const response = await call(model);
      const answered = await response.json();
      assert.equal(response.status, 200, JSON.stringify(answered));
      assert.equal(answered.choices[0].text, "from the second");
      assert.equal(answered.model, model);
    });
  }

  test("the next target streams where the first failed before a byte went out", async () => {
    const text = await (await call("fallback, stream", { stream: true })).text();
    assert.equal(chunksOf(text)[0].choices[0].text, "from the second");
  });

  test("a request that is itself at fault is not tried elsewhere", async () => {
    await failed(await call("no fallback"), 400, GIVEN);
    assert.equal(gateway.upstream.requestsFor("never asked").length, 0);
  });

  test("a kept-alive connection that the upstream has closed fails no request", async () => {
    for (let count = 1; count <= 2; count += 1) {
      const response = await call("keep-alive, then closed");
      assert.equal(response.status, 200, await response.text());
      await response.text();
      const request = await gateway.upstream.requestFor("keep-alive, then closed", count);
      await request.connectionClosed();
    }
  });
});

function cases(dialect) {
  return Object.fromEntries(Object.entries(CASES).map(([name, [script]]) => [`${name} ${dialect}`, { script, dialect }]));
}

/** Promises more bytes than it has. */
function cutShort(body) {
  return async (exchange) => {
    await answer(200, body, { "Content-Length": 4000 })(exchange);
    await exchange.close();
  };
}

/** Answers as if it would keep the connection, and closes it all the same. */
async function keepAliveThenClose(exchange) {
  await answer(200, completion("ok"))(exchange);
  await exchange.close();
}
