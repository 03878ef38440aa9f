// What is left of requests in the isolate, by a snapshot of its heap: nothing, however they end.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { completionCall, startGateway } from "./harness/gateway.mjs";
import { startCall } from "./harness/http_client.mjs";
import { heldLittleMore } from "./harness/inspector.mjs";
import { answer, asAsked, chatChunk, completion, cut, events, pieces, silence, stream, textChunk } from "./harness/scripts.mjs";
import { eventually, latch, within } from "./harness/wait.mjs";

const MEGABYTE = 1 << 20;
// So many of a kind that what each of them leaves would be seen.
const REQUESTS = 200;
// So many events without text, each of which is read by itself.
const THOUGHTS = 400;

const fiftyEvents = stream(events(...Array(49).fill(textChunk("a token or two ")), textChunk("", "stop"), "[DONE]"));

suite("what is left of requests in the isolate", () => {
  const untilClosed = (exchange) => exchange.closed;
  const reset = async (exchange) => {
    await pause(30);
    await exchange.reset();
  };
  const text = events(textChunk("some text"));
  const good = asAsked(answer(200, completion("ok")), fiftyEvents);
  // Of twenty requests, three calls each: the first failure has the others cancelled, which have broken off by then.
  const brokenAtOnce = allAtOnce(60, async (exchange) => {
    await exchange.chunk(events(chatChunk({ content: "some text" })));
    await exchange.close();
  });
  const thought = latch();
  const impatient = { headers_timeout_ms: 100, first_token_timeout_ms: 100, idle_timeout_ms: 100, total_timeout_ms: 100 };
  const scripts = {
    good,
    silence,
    "headers alone": pieces([untilClosed]),
    "stops amid its stream": pieces([text, untilClosed]),
    "breaks off amid its stream": cut(text, "no last chunk"),
    "breaks off before its text": cut(events(textChunk("")), "no last chunk"),
    "breaks off amid an answer": async (exchange) => {
      await exchange.head(200, { "Content-Type": "application/json", "Content-Length": 1000 });
      await exchange.send('{"choices":');
      await exchange.close();
    },
    "breaks off in parts": { script: cut(events(chatChunk({ content: "some text" })), "no last chunk"), dialect: "openai-chat" },
    "breaks off in parts, at once": { script: pieces([brokenAtOnce]), dialect: "openai-chat" },
    "stops in parts": { script: pieces([events(chatChunk({ content: "some text" })), untilClosed]), dialect: "openai-chat" },
    "too slow at all": { script: silence, upstream: impatient },
    "too slow amid its stream": { script: pieces([text, untilClosed]), upstream: impatient },
    // Both are read ahead by then: what comes after the first text gathers.
    "gathers, then breaks off": { script: pieces([text, () => pause(30), text, reset]), model: { gather_ms: 50 } },
    "gathers, then stops": { script: pieces([text, () => pause(30), text, untilClosed]), model: { gather_ms: 50 } },
    thinks: pieces([text, ...Array(THOUGHTS).fill([events(textChunk("")), () => pause(5)]).flat(), () => thought.open(), untilClosed]),
    "500": answer(500, { error: { message: "not now" } }),
  };
  const ONE = { prompt: "p", stream: true };
  const THREE = { prompt: ["p", "q", "r"], stream: true };
  const endsWith = (...statuses) => async (call) => {
    const response = await call.response;
    await response.bytes();
    assert.ok(statuses.includes(response.status), `${response.status}`);
  };
  const hangsUp = async (call) => {
    const response = await call.response;
    await response.contains("\n\n");
    assert.equal(response.status, 200);
    call.hangUp();
  };
  const hangsUpAtOnce = async (call) => {
    await call.sent;
    call.hangUp();
  };

  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts,
      inspect: true,
      configure(config) {
        config.models["500, then good"] = { targets: ["500", "good"].flatMap((name) => config.models[name].targets) };
        return { ...config, keepalive_ms: 50 };
      },
    });
  });
  after(() => gateway?.stop());

  for (const [what, body, act] of [
    ["whole answers", { model: "good", prompt: "p" }, endsWith(200)],
    ["streams", { model: "good", ...ONE }, endsWith(200)],
    ["streams at the second target", { model: "500, then good", ...ONE }, endsWith(200)],
    ["failures", { model: "500", prompt: "p" }, endsWith(502)],
    ["clients that hang up at once", { model: "silence", ...ONE }, hangsUpAtOnce],
    ["clients that hang up at once, not streaming", { model: "silence", prompt: "p" }, hangsUpAtOnce],
    ["clients that hang up before a text", { model: "headers alone", ...ONE }, hangsUp],
    ["clients that hang up amid a stream", { model: "stops amid its stream", ...ONE }, hangsUp],
    ["clients that hang up while a stream gathers", { model: "gathers, then stops", ...ONE }, hangsUp],
    ["upstreams that break off while a stream gathers", { model: "gathers, then breaks off", ...ONE }, endsWith(200)],
    ["clients that hang up amid a stream of three calls", { model: "stops in parts", ...THREE }, hangsUp],
    ["upstreams that break off amid a stream", { model: "breaks off amid its stream", ...ONE }, endsWith(200)],
    // On a busy machine the first keepalive comes before the end.
    ["upstreams that break off before a text", { model: "breaks off before its text", ...ONE }, endsWith(502, 200)],
    ["upstreams that break off amid an answer", { model: "breaks off amid an answer", prompt: "p" }, endsWith(502)],
    ["three calls of which each breaks off", { model: "breaks off in parts", ...THREE }, endsWith(200)],
    ["three calls that all break off at once", { model: "breaks off in parts, at once", ...THREE }, endsWith(200)],
    ["upstreams without an answer in time", { model: "too slow at all", ...ONE }, endsWith(504)],
    // And its headers too late, for one that is so impatient.
    ["upstreams that fall silent", { model: "too slow amid its stream", ...ONE }, endsWith(200, 504)],
  ]) {
    test(`${REQUESTS} ${what}: nothing`, async () => {
      await ask(40, body, act);
      const before = await gateway.isolate.held();
      await ask(REQUESTS, body, act);
      const after = await heldLittleMore(gateway.isolate, before, REQUESTS / 4);
      // Its memory grows by leaps, which a busier moment than before may need, once.
      const more = after.bufferBytes - before.bufferBytes;
      assert.ok(more < MEGABYTE, `${more} bytes more in buffers`);
    });
  }

  test(`a stream of which ${THOUGHTS} events had no text: nothing for each of them`, async () => {
    await ask(40, { model: "good", ...ONE }, endsWith(200));
    const before = await gateway.isolate.held();
    const call = startCall(gateway.port, completionCall(gateway.key, { model: "thinks", ...ONE }));
    await within(thought.opened, "an upstream to have thought", 20_000);
    await heldLittleMore(gateway.isolate, before, THOUGHTS / 4);
    await hangsUp(call);
  });

  async function ask(count, body, act) {
    for (let asked = 0; asked < count; asked += 20) {
      const calls = Array.from({ length: 20 }, () => startCall(gateway.port, completionCall(gateway.key, body)));
      await Promise.all(calls.map(act));
      await eventually("the upstream's calls to end", () => (gateway.upstream.underWay().length === 0 ? true : undefined));
    }
  }
});

// A step of a script that waits until so many exchanges have come to it, and is done for all of them in one turn.
function allAtOnce(count, act) {
  let waiting = [];
  return (exchange) =>
    new Promise((done) => {
      waiting.push({ exchange, done });
      if (waiting.length < count) return;
      for (const { exchange, done } of waiting) done(act(exchange));
      waiting = [];
    });
}
