// What becomes of a request whose upstream misbehaves on the wire: a table of faults, each as a stream and as a whole
// answer, with one target and as the first of two. A request has five witnesses, and all of them are asked every time:
// the client, the ledger, the log, the upstream's connections, and the second target.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, suite, test } from "node:test";
import { startGateway } from "./harness/gateway.mjs";
import { portWithoutListener, startPort } from "./harness/ports.mjs";
import { answer, asAsked, completion, events, pieces, silence, stream, textChunk, USAGE } from "./harness/scripts.mjs";
import { assertErrorShape, choicesOf, chunksOf, splitAtError } from "./harness/sse.mjs";
import { atTime, latch, untilTheDayHasTime } from "./harness/wait.mjs";

// 9 bytes count for 3 tokens, and 8 bytes of text for 2, where nobody else has counted.
const PROMPT = "nine byte";
const TEXT = "12345678";
const SECOND = "from the second";
// One limit for each silence. The others never end, so that it is seen which of them has rung.
const SOON = 300;
const NEVER = 60_000;
// What a call may leave behind after its client has been told everything.
const CLOSING_MS = 1000;
const MAX_EVENT_BYTES = 16 * 1024;
const MAX_ANSWER_BYTES = 256 * 1024;

const SSE = { "Content-Type": "text/event-stream", "Transfer-Encoding": "chunked" };
const JSON_CHUNKED = { "Content-Type": "application/json", "Transfer-Encoding": "chunked" };
const JSON_ANNOUNCED = { "Content-Type": "application/json", "Content-Length": "1000" };
const said = events(textChunk(TEXT));
const ended = events(textChunk("", "stop"), { choices: [], usage: USAGE }, "[DONE]");
const HALF_EVENT = 'data: {"id":"cmpl-upstream","choices":[{"index":0,"text":"never whole';
const HALF_ANSWER = JSON.stringify(completion("never whole")).slice(0, 60);
const WELL = asAsked(answer(200, completion(TEXT)), stream(said + ended));

// What a client sees. Its text, whole or up to an error event, or an error alone.
// `used` is what the ledger has of it: tokens of prompt and completion, and whether they are estimated.
const complete = (text = TEXT, used = [USAGE.prompt_tokens, USAGE.completion_tokens, 0]) => ({ text, used });
const brokenOff = (code) => ({ text: TEXT, code, used: [3, 2, 1] });
const failed = (status, code, more) => ({ status, code, used: [0, 0, 0], ...more });
const ERROR = failed(502, "upstream_error");
const INCOMPLETE = failed(502, "upstream_incomplete");
const TIMEOUT = failed(504, "upstream_timeout");

/** The head of a stream, and after it each of `parts`: bytes, or what is to be done. */
const afterHead = (headers, ...parts) => async (exchange, gate) => {
  await exchange.head(200, headers);
  for (const part of parts) {
    if (typeof part === "function") await part(exchange, gate);
    else await exchange.chunk(part);
  }
};
const streams = (...parts) => afterHead(SSE, ...parts);
const answers = (...parts) => afterHead(JSON_CHUNKED, ...parts);
/** An answer that says how long it is. */
const announces = (bytes, then) => afterHead(JSON_ANNOUNCED, (exchange) => exchange.send(bytes), then);
/** Goes on when the client has what was sent: an RST throws away what was not read. */
const untilRead = (_, gate) => gate.opened;
const nothingMore = (exchange) => exchange.closed;
const resets = (exchange) => exchange.reset();
const closes = (exchange) => exchange.close();

/** The same again and again, each so long after the one before, for as long as anyone listens. */
const repeats = (bytes, everyMs) => async (exchange) => {
  while (!exchange.isClosed()) {
    await exchange.chunk(bytes);
    await (everyMs ? atTime(Date.now() + everyMs) : new Promise(setImmediate));
  }
};

const dripped = (text) => async (exchange) => {
  for (const byte of Buffer.from(text)) {
    await exchange.chunk([byte]);
    await atTime(Date.now() + 100);
  }
};

const FLOOD = 4000;
const floodOf = (text) => events(...Array.from({ length: FLOOD }, () => textChunk(text)));

const refusal = (status, headers = {}) => answer(status, { error: { message: "not now" } }, { "Content-Type": "application/json", ...headers });

// name → what an upstream does, and what its client sees: `streamed` and `whole` are pairs of both. `upstream` has the
// limits that may ring. `keeps` says that the connection may serve again. A script with `text` before its fault waits
// until the client has it.
const FAULTS = {
  "refuses connections": { port: refusing, streamed: [null, ERROR], whole: [null, ERROR] },
  "accepts, and never reads": {
    port: () => startPort((socket) => socket.pause()),
    streamed: [null, TIMEOUT, { headers_timeout_ms: SOON }],
    whole: [null, TIMEOUT, { total_timeout_ms: SOON }],
  },
  "resets what it accepts": { port: () => startPort((socket) => socket.resetAndDestroy()), streamed: [null, ERROR], whole: [null, ERROR] },
  "reads, and says nothing": {
    streamed: [silence, TIMEOUT, { headers_timeout_ms: SOON }],
    whole: [silence, TIMEOUT, { total_timeout_ms: SOON }],
  },
  "sends its headers late, and in time": {
    keeps: true,
    streamed: [late(stream(said + ended)), complete(), { headers_timeout_ms: 20 * SOON, first_token_timeout_ms: NEVER }],
    whole: [late(answer(200, completion(TEXT))), complete(), { headers_timeout_ms: 1, total_timeout_ms: 20 * SOON }],
  },
  "sends its headers, and nothing more": {
    streamed: [streams(nothingMore), TIMEOUT, { first_token_timeout_ms: SOON }],
    whole: [answers(nothingMore), TIMEOUT, { total_timeout_ms: SOON }],
  },
  "sends its headers, and comments": {
    streamed: [streams(repeats(": ping\n\n", 50)), TIMEOUT, { first_token_timeout_ms: SOON }],
    whole: [answers(repeats("\n", 50)), TIMEOUT, { total_timeout_ms: SOON }],
  },
  "floods with comments before its first text": {
    streamed: [streams(repeats(": ping\n\n".repeat(1000))), TIMEOUT, { first_token_timeout_ms: SOON }],
    whole: [answers(repeats("\n".repeat(8000))), ERROR],
  },
  "stalls between two events": {
    streamed: [streams(said, nothingMore), brokenOff("upstream_timeout"), { idle_timeout_ms: SOON }],
    whole: [answers(HALF_ANSWER, nothingMore), TIMEOUT, { total_timeout_ms: SOON }],
  },
  // An answer with a length is read in another way than one in chunks.
  "stalls short of what it announced": {
    streamed: [streams(said, nothingMore), brokenOff("upstream_timeout"), { idle_timeout_ms: SOON }],
    whole: [announces(HALF_ANSWER, nothingMore), TIMEOUT, { total_timeout_ms: SOON }],
  },
  "resets short of what it announced": {
    streamed: [streams(said, untilRead, resets), brokenOff("upstream_incomplete")],
    whole: [announces(HALF_ANSWER, resets), ERROR],
  },
  "stalls mid-event": {
    streamed: [streams(said + HALF_EVENT, nothingMore), brokenOff("upstream_timeout"), { idle_timeout_ms: SOON }],
    whole: [answers(`${HALF_ANSWER}\\`, nothingMore), TIMEOUT, { total_timeout_ms: SOON }],
  },
  "sends comments after its first text": {
    streamed: [streams(said, repeats(": ping\n\n", 50)), brokenOff("upstream_timeout"), { idle_timeout_ms: SOON }],
    whole: [answers(HALF_ANSWER, repeats(" ", 50)), TIMEOUT, { total_timeout_ms: SOON }],
  },
  "floods with comments after its first text": {
    streamed: [streams(said, repeats(": ping\n\n".repeat(1000))), brokenOff("upstream_timeout"), { idle_timeout_ms: SOON }],
    whole: [answers(HALF_ANSWER, repeats(" ".repeat(8000))), ERROR],
  },
  "resets before its headers": { streamed: [resets, ERROR], whole: [resets, ERROR] },
  "resets after its headers": { streamed: [streams(resets), INCOMPLETE], whole: [answers(resets), ERROR] },
  "resets between two events": {
    streamed: [streams(said, untilRead, resets), brokenOff("upstream_incomplete")],
    whole: [answers(HALF_ANSWER, resets), ERROR],
  },
  "resets mid-event": {
    streamed: [streams(said + HALF_EVENT, untilRead, resets), brokenOff("upstream_incomplete")],
    whole: [answers(`${HALF_ANSWER}\\`, resets), ERROR],
  },
  "closes before its headers": { streamed: [closes, ERROR], whole: [closes, ERROR] },
  "closes after its headers": { streamed: [streams(closes), INCOMPLETE], whole: [answers(closes), ERROR] },
  "closes between two events": { streamed: [streams(said, closes), brokenOff("upstream_incomplete")], whole: [answers(HALF_ANSWER, closes), ERROR] },
  "closes mid-event": {
    streamed: [streams(said + HALF_EVENT, closes), brokenOff("upstream_incomplete")],
    whole: [answers(`${HALF_ANSWER}\\`, closes), ERROR],
  },
  "closes mid-event, as a body without a length may": {
    streamed: [closeDelimited("text/event-stream", said + HALF_EVENT), brokenOff("upstream_incomplete")],
    whole: [closeDelimited("application/json", HALF_ANSWER), ERROR],
  },
  // Pitfall 30: an event takes longer than the silence that is allowed, and is none: bytes of it keep coming. Nor has a
  // stream a total that it could run into.
  "drips a byte every 100 ms": {
    keeps: true,
    streamed: [streams(said, dripped('data:{"choices":[{"text":"!"}]}\n\n'), ended, last), complete(`${TEXT}!`), { idle_timeout_ms: 1500, total_timeout_ms: SOON }],
    whole: [answers(dripped(`{"choices":[{"text":"!"}]}`), last), complete("!", [3, 1, 1]), { total_timeout_ms: NEVER }],
  },
  floods: {
    streamed: [streams(floodOf(TEXT), floodOf(TEXT), ended, last), complete(TEXT.repeat(2 * FLOOD))],
    whole: [answers(repeats(HALF_ANSWER.repeat(100))), ERROR],
    keeps: "streamed",
  },
  "sends an endless line": {
    streamed: [streams("data: ", repeats("x".repeat(1000))), ERROR],
    whole: [answers('{"choices":[{"text":"', repeats("x".repeat(1000))), ERROR],
  },
  "sends an endless line after its first text": {
    streamed: [streams(`${said}data: `, repeats("x".repeat(1000))), brokenOff("upstream_error")],
    whole: [answers(`{"a":"${TEXT}","b`, repeats("x".repeat(1000))), ERROR],
  },
  "408": status(refusal(408), TIMEOUT),
  "429 with Retry-After": status(refusal(429, { "Retry-After": "7" }), failed(429, "upstream_rate_limited", { retryAfter: "7" })),
  "429 without": status(refusal(429), failed(429, "upstream_rate_limited", { retryAfter: "1" })),
  "500": status(refusal(500), ERROR),
  "503": status(refusal(503), ERROR),
  "529": status(refusal(529), ERROR),
};

const WAYS = ["streamed", "whole"];
const PLACES = ["alone", "first of two"];
const IN_TURNS = "fails and is well in turns";
const nameOf = (fault, way, place) => `${fault} (${way}, ${place})`;

function cases() {
  const every = (fault) => WAYS.flatMap((way) => PLACES.map((place) => ({ name: nameOf(fault, way, place), fault, way, place })));
  return Object.keys(FAULTS).flatMap(every);
}

suite("faults on the wire", { concurrency: 8 }, () => {
  const [gates, ports] = [{}, {}];
  let gateway, targetOf;

  before(async () => {
    const scripts = { second: asAsked(answer(200, completion(SECOND)), stream(events(textChunk(SECOND)) + ended)) };
    for (const { name, fault, way } of cases()) {
      const { port, [way]: [script, , upstream] } = FAULTS[fault];
      const gate = (gates[name] = latch());
      if (port) ports[name] = await port();
      const base = port && { base_url: `http://127.0.0.1:${ports[name].port}/v1` };
      scripts[name] = { script: (exchange) => script(exchange, gate), upstream: { ...upstream, ...base } };
    }
    for (const way of WAYS) for (const place of PLACES) scripts[nameOf(IN_TURNS, way, place)] = inTurns(refusal(500), WELL);
    gateway = await startGateway({
      scripts,
      configure(config) {
        const own = Object.fromEntries(Object.entries(config.models).map(([name, { targets: [target] }]) => [name, target]));
        targetOf = (name) => `${own[name].upstream}/${own[name].model}`;
        for (const [name, { targets }] of Object.entries(config.models)) if (name.includes("first of two")) targets.push(own.second);
        return { ...config, limits: { max_event_bytes: MAX_EVENT_BYTES, max_answer_bytes: MAX_ANSWER_BYTES } };
      },
    });
    await untilTheDayHasTime(60_000);
  });
  after(async () => {
    await gateway?.stop();
    for (const port of Object.values(ports)) await port.stop();
  });

  for (const { name, fault, way, place } of cases()) {
    test(name, async () => {
      const { port, keeps, [way]: [, expected] } = FAULTS[fault];
      // A failure that the client has not seen the beginning of is the next target's chance.
      const falls = place === "first of two" && expected.status !== undefined;
      await tell({
        model: name,
        way,
        gate: gates[name],
        expected: falls ? complete(SECOND) : expected,
        attempts: falls ? 2 : 1,
        target: falls ? "second" : name,
      });
      if (port) return ports[name].allClosed("the connections to close", CLOSING_MS);
      const [request, ...more] = gateway.upstream.requestsFor(name);
      assert.equal(more.length, 0, "a target is asked once");
      if (keeps === true || keeps === way) await gone(request);
      else await request.connectionClosed("the upstream's connection to close", CLOSING_MS);
    });
  }

  for (const way of WAYS) {
    test(nameOf(IN_TURNS, way, "alone"), async () => {
      const model = nameOf(IN_TURNS, way, "alone");
      for (const expected of [ERROR, complete(), ERROR, complete()]) {
        await tell({ model, way, expected, attempts: 1, target: model });
      }
    });

    test(nameOf(IN_TURNS, way, "first of two"), async () => {
      const model = nameOf(IN_TURNS, way, "first of two");
      for (const [attempts, target] of [[2, "second"], [1, model], [2, "second"], [1, model]]) {
        await tell({ model, way, expected: complete(target === model ? TEXT : SECOND), attempts, target });
      }
    });
  }

  /** Asks for a completion, and all five witnesses what became of it. */
  async function tell({ model, way, gate, expected, attempts, target }) {
    const caller = await gateway.addCaller({ tenant: { concurrent_requests: 1 } });
    const requestId = `req_${randomBytes(8).toString("hex")}`;
    const streamed = way === "streamed";
    const response = await caller.complete({ model, prompt: PROMPT, stream: streamed }, { headers: { "x-request-id": requestId } });
    const { status = 200, code, text = "", used } = expected;
    if (streamed && gate && status === 200) await response.contains(text.slice(0, TEXT.length));
    gate?.open();
    const body = await response.text();

    assert.equal(response.status, status, body);
    assert.equal(response.headers["x-upstream-attempts"], String(attempts));
    assert.ok(response.clean(), "HTTP's own framing ends the answer");
    assert.ok(!body.includes("never whole"), "no half of an event or of an answer gets out");
    if (status !== 200) {
      const { error } = JSON.parse(body);
      assertErrorShape(error);
      assert.equal(error.code, code);
      assert.equal(response.headers["retry-after"], expected.retryAfter);
    } else if (streamed) {
      const [chunks, error] = code ? splitAtError(body) : [chunksOf(body)];
      assert.equal(error?.code, code);
      assert.deepEqual(choicesOf(chunks), { 0: { text, finish_reason: code ? null : "stop" } });
    } else {
      assert.deepEqual(JSON.parse(body).choices.map((choice) => choice.text), [text]);
    }

    const { prompt_tokens, completion_tokens, estimated, ...sum } = await caller.usageOf(1);
    assert.deepEqual([prompt_tokens, completion_tokens, estimated], used, "what the ledger has");
    assert.deepEqual(sum, { requests: 1, refused: 0, errors: code ? 1 : 0 });

    const { key, headers_ms: headersMs, first_token_ms: firstTokenMs, total_ms: totalMs, wasted_tokens: wasted, ...record } = await gateway.recordOf(requestId);
    assert.ok(totalMs >= (firstTokenMs ?? 0) && (firstTokenMs ?? 0) >= (headersMs ?? 0), "times are in order");
    assert.equal(key, caller.keyId);
    // A try that failed once its headers were there has used its prompt, at least.
    assert.ok(wasted >= 0 && (wasted === 0 || attempts > 1 || status !== 200), `${wasted} tokens wasted`);
    assert.deepEqual(record, {
      request_id: requestId,
      route: "completions",
      tenant: caller.tenant,
      dialect: "openai-completions",
      model,
      stream: streamed,
      status,
      attempts,
      target: targetOf(target),
      ended: code ? "error" : "complete",
      error: code ?? null,
      finish_reason: code ? null : "stop",
      prompt_tokens: used[0],
      completion_tokens: used[1],
      estimated: used[2] === 1,
    }, "what the log has");
  }

  /** Waits until a request's answer is no business of the upstream's any more, though its connection may live on. */
  async function gone(request) {
    const until = Date.now() + CLOSING_MS;
    while (request.isUnderWay) {
      assert.ok(Date.now() < until, "the upstream is done with its answer");
      await atTime(Date.now() + 10);
    }
  }
});

async function refusing() {
  return { port: await portWithoutListener(), allClosed() {}, stop() {} };
}

function late(script) {
  return async (exchange) => {
    await atTime(Date.now() + SOON);
    await script(exchange);
  };
}

function closeDelimited(type, body) {
  return async (exchange) => {
    await exchange.head(200, { "Content-Type": type, Connection: "close" });
    await exchange.send(body);
    await exchange.close();
  };
}

/** The end of a chunked body. */
function last(exchange) {
  return exchange.lastChunk();
}

/** A status with its body, whatever was asked for. */
function status(script, expected) {
  return { keeps: true, streamed: [script, expected], whole: [script, expected] };
}

/** The first script, then the second, then the first again. */
function inTurns(...scripts) {
  let count = 0;
  return (exchange) => scripts[count++ % scripts.length](exchange);
}
