// One request as several upstream calls, for prompts and choices that an upstream takes one at a time; and stop sequences
// and echo, which the gateway adds itself. Every call is a connection whose script the test plays, so that nothing here
// is a matter of luck.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { DIALECTS, INTERNAL } from "./harness/dialects.mjs";
import { startGateway } from "./harness/gateway.mjs";
import { answer, USAGE } from "./harness/scripts.mjs";
import { assertErrorShape, choicesOf, chunksOf, splitAtError } from "./harness/sse.mjs";
import { latch, within } from "./harness/wait.mjs";

const SOON_MS = 1000;
const EMULATING = ["anthropic", "workers-ai"];
// The default of limits.max_parallel_calls.
const MOST_CALLS = 16;
// How many connections of one request Workers lets wait for their heads.
const AT_ONCE = 6;
const PROMPTS = ["a", "b", "c"];
const OURS = { max_tokens: 5 };
const sumOfUsage = (calls) => ({
  prompt_tokens: calls * USAGE.prompt_tokens,
  completion_tokens: calls * USAGE.completion_tokens,
  total_tokens: calls * USAGE.total_tokens,
});

/** A model whose calls wait for what the test has them say. */
function heldModel(dialect) {
  const row = DIALECTS[dialect];
  const calls = [];
  let wake = () => {};
  const script = async (exchange) => {
    const { prompt, messages, seed } = exchange.request.json;
    const over = latch();
    calls.push({
      name: `${prompt ?? messages[0].content}${seed ?? ""}`,
      begin: () => exchange.head(200, { "Content-Type": row.type, "Transfer-Encoding": "chunked" }),
      open: () => exchange.chunk(row.open || ": open\n\n"),
      say: (text) => exchange.chunk(row.text(text)),
      fail: () => exchange.chunk(row.fails),
      async end() {
        await exchange.chunk(row.end);
        await exchange.lastChunk();
        over.open();
      },
      /** The end of the body, and not of what was to be said. */
      async cut() {
        await exchange.lastChunk();
        over.open();
      },
      reset: () => exchange.reset(),
      async answer(text) {
        await answer(200, row.whole(text))(exchange);
        over.open();
      },
      async refuse(status) {
        await answer(status, { error: { message: INTERNAL } })(exchange);
        over.open();
      },
      /** Half of a whole answer. */
      half: () => exchange.send('HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{"result":'),
      isClosed: exchange.isClosed,
      closed: () => within(exchange.closed, "the connection of a call to be closed", SOON_MS),
    });
    wake();
    await Promise.race([over.opened, exchange.closed]);
  };
  return {
    model: { script, dialect, base: row.base, upstream: row.upstream, target: { model: "m" } },
    /** This many calls that nobody has answered yet, by prompt and seed. */
    async arrived(count) {
      const all = async () => {
        while (calls.length < count) await new Promise((resolve) => (wake = resolve));
      };
      await within(all(), `${count} calls at once`);
      return Object.fromEntries(calls.splice(0, count).map((call) => [call.name, call]));
    },
    waiting: () => calls.length,
  };
}

const held = {};
for (const dialect of EMULATING) {
  for (const name of ["whole", "stream", "fails first", "second target", "breaks", "gone", "too many", "stops"]) {
    held[`${name}, ${dialect}`] = heldModel(dialect);
  }
}

/** The models that have two targets. */
function addFallbacks(config) {
  const targets = (name) => config.models[name].targets;
  for (const dialect of EMULATING) {
    const both = ["fails first", "second target"].flatMap((name) => targets(`${name}, ${dialect}`));
    config.models[`falls back, ${dialect}`] = { targets: both };
  }
  return config;
}

// What the first of three calls does, and what the others have done by then: each before any chunk.
const FAILS_FIRST = {
  "500, the others silent": { stream: true, first: (call) => call.refuse(500) },
  "500, the others silent, not streaming": { stream: false, first: (call) => call.refuse(500) },
  "500, the others amid an answer, not streaming": { stream: false, others: (call) => call.half(), first: (call) => call.refuse(500) },
  "500, the others with their heads": { stream: true, others: (call) => call.begin(), first: (call) => call.refuse(500) },
  "500, the others with text": {
    stream: true,
    others: async (call) => {
      await call.begin();
      await call.say("x");
    },
    first: (call) => call.refuse(500),
  },
  "a reset before its head": { stream: true, others: (call) => call.begin(), first: (call) => call.reset() },
};

// How a call of three breaks that has said something.
const BREAKS = {
  "an error in its stream": { breaks: (call) => call.fail() },
  "a stream that ends early": { breaks: (call) => call.cut(), code: "upstream_incomplete" },
  "a reset": { breaks: (call) => call.reset(), code: "upstream_incomplete" },
};

suite("fan-out", () => {
  let gateway;
  before(async () => {
    const scripts = Object.fromEntries(Object.entries(held).map(([name, { model }]) => [name, model]));
    gateway = await startGateway({ scripts, configure: addFallbacks });
  });
  after(() => gateway?.stop());

  const each = (calls, act) => Promise.all(Object.values(calls).map(act));
  const othersOf = (calls, name) => Object.fromEntries(Object.entries(calls).filter(([one]) => one !== name));

  for (const dialect of EMULATING) {
    test(`all calls are made before any is answered, and are put in order (${dialect})`, async () => {
      const model = `whole, ${dialect}`;
      const caller = await gateway.addCaller();
      const response = caller.complete({ model, prompt: PROMPTS, ...OURS });
      const calls = await held[model].arrived(3);
      for (const name of [...PROMPTS].reverse()) await calls[name].answer(`${name}!`);
      const body = await (await response).json();
      assert.deepEqual(body.choices.map(({ index, text, finish_reason }) => [index, text, finish_reason]), [[0, "a!", "stop"], [1, "b!", "stop"], [2, "c!", "stop"]]);
      assert.deepEqual(body.usage, sumOfUsage(3));
      const usage = await caller.usageOf(1);
      const { total_tokens, ...counts } = sumOfUsage(3);
      assert.deepEqual(usage, { requests: 1, ...counts, estimated: 0, refused: 0, errors: 0 });
    });

    test(`pitfall 20: streams are merged as they come, each choice under its own number (${dialect})`, async () => {
      const model = `stream, ${dialect}`;
      const caller = await gateway.addCaller();
      const pending = caller.complete({ model, prompt: PROMPTS, ...OURS, stream: true, stream_options: { include_usage: true } });
      const { a, b, c } = await held[model].arrived(3);
      await Promise.all([a, b, c].map((call) => call.begin()));
      await Promise.all([a, b, c].map((call) => call.open()));
      await b.say("b1");
      const response = await pending;
      await response.contains('"b1"');
      await c.say("c1");
      await response.contains('"c1"');
      await b.say("b2");
      await b.end();
      await response.contains('"b2"');
      assert.ok(!response.textSoFar().includes('"index":0'), "the first call has said nothing yet");
      await a.say("a1");
      await response.contains('"a1"');
      await c.end();
      await a.end();
      const chunks = chunksOf(await response.text());
      const finish_reason = "stop";
      assert.deepEqual(choicesOf(chunks), { 0: { text: "a1", finish_reason }, 1: { text: "b1b2", finish_reason }, 2: { text: "c1", finish_reason } });
      assert.deepEqual(chunks.at(-1).usage, sumOfUsage(3));
      const { total_tokens, ...counts } = sumOfUsage(3);
      assert.deepEqual(await caller.usageOf(1), { requests: 1, ...counts, estimated: 0, refused: 0, errors: 0 });
    });

    for (const [name, { stream, others = () => {}, first }] of Object.entries(FAILS_FIRST)) {
      test(`a call that fails before any chunk is one HTTP error, free, and ends the others (${name}, ${dialect})`, async () => {
        const model = `fails first, ${dialect}`;
        const caller = await gateway.addCaller();
        const pending = caller.complete({ model, prompt: PROMPTS, ...OURS, stream });
        const calls = await held[model].arrived(3);
        const rest = othersOf(calls, "a");
        await each(rest, others);
        await first(calls.a);
        const response = await pending;
        const { error } = await response.json();
        assertErrorShape(error);
        assert.deepEqual([response.status, error.code], [502, "upstream_error"]);
        await each(rest, (call) => call.closed());
        assert.deepEqual(await caller.usageOf(1), { requests: 1, prompt_tokens: 0, completion_tokens: 0, estimated: 0, refused: 0, errors: 1 });
      });
    }

    for (const stream of [false, true]) {
      test(`where one call fails, the others end before the next target has answered (stream: ${stream}, ${dialect})`, async () => {
        const pending = gateway.complete({ model: `falls back, ${dialect}`, prompt: PROMPTS, ...OURS, stream });
        const calls = await held[`fails first, ${dialect}`].arrived(3);
        await calls.b.begin();
        await calls.c.refuse(500);
        const next = await held[`second target, ${dialect}`].arrived(3);
        await Promise.all([calls.a.closed(), calls.b.closed()]);
        await each(next, async (call) => {
          if (!stream) return call.answer(call.name);
          await call.begin();
          await call.say(call.name);
          await call.end();
        });
        const text = await (await pending).text();
        const texts = stream ? choicesOf(chunksOf(text)) : Object.fromEntries(JSON.parse(text).choices.map((choice) => [choice.index, choice]));
        assert.deepEqual(Object.values(texts).map((choice) => choice.text), PROMPTS);
      });
    }

    for (const [name, { breaks, code = DIALECTS[dialect].failsWith ?? "upstream_error" }] of Object.entries(BREAKS)) {
      test(`pitfall 25: a call that breaks amid the stream is one error, and ends the others (${name}, ${dialect})`, async () => {
        const model = `breaks, ${dialect}`;
        const caller = await gateway.addCaller();
        const pending = caller.complete({ model, prompt: PROMPTS, ...OURS, stream: true });
        const calls = await held[model].arrived(3);
        await each(calls, (call) => call.begin());
        await each(calls, (call) => call.say(`${call.name}1234567`));
        const response = await pending;
        for (const prompt of PROMPTS) await response.contains(`"${prompt}1234567"`);
        await breaks(calls.b);
        const [chunks, error] = splitAtError(await response.text());
        assert.equal(error.code, code);
        for (const { finish_reason } of Object.values(choicesOf(chunks))) assert.equal(finish_reason, null);
        await each(othersOf(calls, "b"), (call) => call.closed());
        const { requests, completion_tokens, errors } = await caller.usageOf(1);
        assert.deepEqual([requests, errors], [1, 1]);
        assert.ok(completion_tokens >= 6, `what was said is charged: ${completion_tokens}`);
      });
    }

    for (const [when, reads] of [["before any head", false], ["mid-stream", true]]) {
      test(`pitfall 29: a client that goes away ${when} ends all calls, and is settled (${dialect})`, async () => {
        const model = `gone, ${dialect}`;
        const caller = await gateway.addCaller();
        const pending = caller.start({ model, prompt: PROMPTS, ...OURS, stream: true });
        const calls = await held[model].arrived(3);
        if (reads) {
          await each(calls, (call) => call.begin());
          await each(calls, (call) => call.say(`${call.name}1234567`));
          const response = await pending.response;
          for (const prompt of PROMPTS) await response.contains(`"${prompt}1234567"`);
        }
        pending.hangUp();
        await each(calls, (call) => call.closed());
        const { requests, completion_tokens } = await caller.usageOf(1);
        assert.equal(requests, 1);
        if (reads) assert.ok(completion_tokens >= 6, `what was said is charged: ${completion_tokens}`);
        else assert.equal(completion_tokens, 0);
      });
    }

    for (const [param, more] of [["n", { n: MOST_CALLS + 1 }], ["prompt", { prompt: Array(MOST_CALLS + 1).fill("p") }], ["prompt", { prompt: PROMPTS, n: 6 }]]) {
      test(`more calls than allowed are refused before any is made (${JSON.stringify(more).slice(0, 30)}, ${dialect})`, async () => {
        const model = `too many, ${dialect}`;
        const caller = await gateway.addCaller();
        const response = await caller.complete({ model, prompt: "p", ...OURS, ...more });
        const { error } = await response.json();
        assertErrorShape(error);
        assert.deepEqual([response.status, error.param, error.code], [400, param, "unsupported_value"]);
        assert.equal(held[model].waiting(), 0);
        assert.deepEqual(await caller.usage(), []);
      });
    }
  }

  test("choices of one prompt have seeds of their own, and follow each other", async () => {
    const model = "whole, workers-ai";
    const pending = gateway.complete({ model, prompt: ["a", "b"], n: 2, seed: 7, ...OURS });
    const calls = await held[model].arrived(4);
    for (const name of ["b8", "a8", "b7", "a7"]) await calls[name].answer(name);
    const { choices } = await (await pending).json();
    assert.deepEqual(choices.map(({ index, text }) => [index, text]), [[0, "a7"], [1, "a8"], [2, "b7"], [3, "b8"]]);
  });

  test("as many calls as allowed are made, of which six wait for their heads at a time", async () => {
    const model = "whole, workers-ai";
    const pending = gateway.complete({ model, prompt: "p", n: MOST_CALLS, seed: 100, ...OURS });
    for (let made = 0; made < MOST_CALLS; made += AT_ONCE) {
      const calls = await held[model].arrived(Math.min(AT_ONCE, MOST_CALLS - made));
      assert.equal(held[model].waiting(), 0);
      await each(calls, (call) => call.answer(call.name));
    }
    const { choices } = await (await pending).json();
    assert.deepEqual(choices.map(({ text }) => text), Array.from({ length: MOST_CALLS }, (_, i) => `p${100 + i}`));
  });

  for (const echo of [false, true]) {
    const before = echo ? "p" : "";

    test(`a stop sequence over three chunks ends the choice and the call (echo: ${echo})`, async () => {
      const model = "stops, workers-ai";
      const caller = await gateway.addCaller();
      const pending = caller.complete({ model, prompt: "p", stop: ["END"], echo, ...OURS, stream: true });
      const { p } = await held[model].arrived(1);
      await p.begin();
      await p.say("one, two, E");
      const response = await pending;
      // What may be the beginning of a sequence is held back, and no more.
      await response.contains("one, two, ");
      await p.say("N");
      await p.say("D, three");
      const text = await response.text();
      assert.deepEqual(choicesOf(chunksOf(text)), { 0: { text: `${before}one, two, `, finish_reason: "stop" } });
      await p.closed();
      const { requests, completion_tokens, estimated, errors } = await caller.usageOf(1);
      assert.deepEqual({ requests, completion_tokens, estimated, errors }, { requests: 1, completion_tokens: 3, estimated: 1, errors: 0 });
    });

    test(`what only begins like a stop sequence comes through (echo: ${echo})`, async () => {
      const model = "stops, workers-ai";
      const pending = gateway.complete({ model, prompt: "p", stop: ["END"], echo, ...OURS, stream: true });
      const { p } = await held[model].arrived(1);
      await p.begin();
      for (const piece of ["E", "N", "E", "EN"]) await p.say(piece);
      await p.end();
      assert.deepEqual(choicesOf(chunksOf(await (await pending).text())), { 0: { text: `${before}ENEEN`, finish_reason: "stop" } });
    });

    test(`a stop sequence in a whole answer (echo: ${echo})`, async () => {
      const model = "stops, workers-ai";
      const pending = gateway.complete({ model, prompt: "p", stop: ["END", ", t"], echo, ...OURS });
      const { p } = await held[model].arrived(1);
      await p.answer("one, two, END");
      const { choices } = await (await pending).json();
      assert.deepEqual(choices.map(({ text, finish_reason }) => [text, finish_reason]), [[`${before}one`, "stop"]]);
    });
  }

  test("pitfall 20: a stop sequence ends its own call, and the others go on", async () => {
    const model = "stops, workers-ai";
    const pending = gateway.complete({ model, prompt: ["a", "b"], stop: "END", echo: true, ...OURS, stream: true });
    const { a, b } = await held[model].arrived(2);
    await Promise.all([a.begin(), b.begin()]);
    await b.say("1");
    // The client has its first chunk, so that what follows passes through the pump.
    const response = await pending;
    await response.contains('"1"');
    await a.say("2END3");
    await a.closed();
    assert.ok(!b.isClosed());
    await b.say("4");
    await response.contains('"4"');
    await b.end();
    const chunks = chunksOf(await response.text());
    assert.deepEqual(choicesOf(chunks), { 0: { text: "a2", finish_reason: "stop" }, 1: { text: "b14", finish_reason: "stop" } });
  });
});
