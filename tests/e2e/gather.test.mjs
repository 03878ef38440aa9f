// `gather_ms` of a model: what comes after the first text goes out in fewer pieces, and none of it waits for what does not
// come.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { completionCall, startGateway } from "./harness/gateway.mjs";
import { startCall } from "./harness/http_client.mjs";
import { events, pieces, textChunk } from "./harness/scripts.mjs";
import { textOf } from "./harness/sse.mjs";
import { eventually, latch } from "./harness/wait.mjs";

const WORDS = Array.from({ length: 40 }, (_, i) => ` w${i}`);
const one = (text) => events(textChunk(text));
// Each so long after the last one that they are no backlog, which would be read at once anyway.
const SLOWLY = WORDS.flatMap((word) => [() => pause(8), one(word)]);
const END = events(textChunk("", "stop"), "[DONE]");

suite("what gathers", () => {
  const first = latch();
  const alone = latch();
  const idle = { upstream: { idle_timeout_ms: 150 } };
  const scripts = {
    words: pieces([one("first"), () => first.opened, ...SLOWLY, END]),
    alone: pieces([one("first"), one(" second"), () => alone.opened, one(" third"), END]),
    "longer than silence may last": pieces([one("first"), ...SLOWLY, END]),
    "then nothing": pieces([one("first"), ...WORDS.map(one)]),
    endless: pieces([one("first"), one(" second"), () => new Promise(() => {})]),
  };
  let gateway;
  before(async () => {
    const gathers = ([name, script]) => [name, { script, model: { gather_ms: 200 }, ...(name.startsWith("longer") && idle) }];
    gateway = await startGateway({ scripts: Object.fromEntries(Object.entries(scripts).map(gathers)) });
  });
  after(() => gateway?.stop());

  const start = (model) => startCall(gateway.port, completionCall(gateway.key, { model, prompt: "p", stream: true }));

  test("the first text is sent by itself, what follows in few pieces", async () => {
    const lengths = [];
    const response = await start("words").response;
    response.onPiece(({ length }) => lengths.push(length));
    await response.contains('"first"');
    first.open();
    assert.equal(textOf(await response.text()), `first${WORDS.join("")}`);
    assert.ok(lengths.length < WORDS.length / 2, `${lengths.length} pieces for ${WORDS.length} words`);
  });

  test("text that nothing follows is not held back", async () => {
    const response = await start("alone").response;
    await response.contains('" second"');
    alone.open();
    assert.equal(textOf(await response.text()), "first second third");
  });

  test("what gathers for longer than an upstream may be silent is no silence", async () => {
    const body = await (await start("longer than silence may last").response).text();
    assert.equal(textOf(body), `first${WORDS.join("")}`);
    assert.ok(!body.includes('"error"'), body);
  });

  test("an end that was not said is an error event after all that came", async () => {
    const body = await (await start("then nothing").response).text();
    assert.ok(body.includes(`${WORDS.at(-1)}"`));
    assert.match(body, /before it was complete/);
  });

  test("pitfall 29: a client that goes meanwhile takes the upstream along", async () => {
    const response = await start("endless").response;
    await eventually("the first text", () => response.textSoFar().includes('"first"') || undefined);
    response.hangUp();
    const request = await gateway.upstream.requestFor("endless");
    await request.connectionClosed("the upstream to be cancelled");
  });
});
