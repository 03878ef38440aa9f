// What an upstream may do to a stream and still be understood: every case must come out as the same good chunks.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { startGateway } from "./harness/gateway.mjs";
import { bytewise, chatChunk, closeDelimited, events, gzipStream, pieces, stream, textChunk, USAGE } from "./harness/scripts.mjs";
import { choicesOf, chunksOf } from "./harness/sse.mjs";
import { latch } from "./harness/wait.mjs";

const COMPLETIONS = events(textChunk("Hello"), textChunk(" wörld"), textChunk("", "stop"), "[DONE]");
const CHAT = events(
  chatChunk({ role: "assistant", content: "" }),
  chatChunk({ content: "Hello" }),
  chatChunk({ content: " wörld" }),
  chatChunk({}, "stop"),
  "[DONE]",
);
const ONE_CHOICE = { 0: { text: "Hello wörld", finish_reason: "stop" } };

const lf = (ending) => (body) => body.replaceAll("\n", ending);
const splitInCharacter = (body) => {
  const bytes = Buffer.from(body);
  const at = bytes.indexOf(Buffer.from("ö")) + 1;
  return pieces([bytes.subarray(0, at), bytes.subarray(at)]);
};

// name → the script of a whole stream; each is run with both dialects and must give ONE_CHOICE.
const SAME_TEXT = {
  "whole in one piece": stream,
  "bytes one at a time": bytewise,
  "pitfall 17: CRLF line ends": (body) => stream(lf("\r\n")(body)),
  "pitfall 17: CRLF, bytes one at a time": (body) => bytewise(lf("\r\n")(body)),
  "pitfall 17: CR line ends": (body) => stream(lf("\r")(body)),
  "pitfall 17: CR, bytes one at a time": (body) => bytewise(lf("\r")(body)),
  "pitfall 17: mixed line ends": (body) => stream(body.replace("\n\n", "\r\n\n").replace(/\n\n(?!.*\n\n)/s, "\r\r")),
  "pitfall 16: a character split between reads": splitInCharacter,
  "pitfall 16: a BOM": (body) => stream(`\uFEFF${body}`),
  "pitfall 16: a BOM, bytes one at a time": (body) => bytewise(`\uFEFF${body}`),
  "pitfall 18: data: without a space": (body) => stream(body.replaceAll("data: ", "data:")),
  "pitfalls 18 and 28: comments": (body) => stream(`: welcome\n\n${body.replaceAll("\n\n", "\n\n: ping\n\n:\n")}`),
  "pitfall 18: event, id and retry lines": (body) => stream(`retry: 10\n\nevent: ping\n\n${body.replaceAll("data: ", "id: 1\nevent: message\ndata: ")}`),
  "data over two lines": (body) => stream(body.replaceAll('"choices":', '\ndata: "choices":')),
  "pitfall 26: no [DONE] after a finish reason": (body) => stream(body.replace("data: [DONE]\n\n", "")),
  "no blank line after the last event": (body) => stream(body.replace("data: [DONE]\n\n", "").trimEnd()),
  "no blank line after [DONE]": (body) => stream(body.trimEnd()),
  "pitfall 26: [DONE] twice": (body) => stream(`${body}data: [DONE]\n\n`),
  "pitfall 26: events after [DONE]": (body) => stream(`${body}${events(textChunk("late"), chatChunk({ content: "late" }))}`),
  "garbage after [DONE]": (body) => stream(`${body}<html>`),
  "pitfall 26: a finish reason twice": (body) => stream(body.replace("data: [DONE]", `${events(textChunk("", "stop"), chatChunk({}, "stop"))}data: [DONE]`)),
  "ended by closing the connection": closeDelimited,
  "pitfall 43: gzip, flushed after each event": (body) => gzipStream(body.split(/(?<=\n\n)/)),
  "pitfall 15: usage with choices []": (body) => stream(withUsage(body, { choices: [] })),
  "pitfall 15: usage with choices null": (body) => stream(withUsage(body, { choices: null })),
  "pitfall 15: usage without choices": (body) => stream(withUsage(body, {})),
  "usage null on every chunk": (body) => stream(body.replaceAll('"choices":', '"usage":null,"choices":')),
  "pitfall 15: choices [] first": (body) => stream(`${events({ id: "", object: "", model: "", choices: [], prompt_filter_results: [] })}${body}`),
  "pitfall 23: keys that nobody knows": (body) => stream(body.replaceAll('"choices":', '"system_fingerprint":null,"new":{"a":[1]},"choices":')),
  "pitfall 26: text after the finish reason": (body) => stream(body.replace("data: [DONE]", `${events(textChunk("late"), chatChunk({ content: "late" }))}data: [DONE]`)),
};

function withUsage(body, more) {
  return body.replace("data: [DONE]", `${events({ id: "x", usage: USAGE, ...more })}data: [DONE]`);
}

// name → [script, what the choices must be, the dialect]
const OTHERS = {
  "literal data: [DONE] in the text": [
    stream(events(textChunk("a\n\ndata: [DONE]\n\nb"), textChunk("", "stop"), "[DONE]")),
    { 0: { text: "a\n\ndata: [DONE]\n\nb", finish_reason: "stop" } },
  ],
  "U+2028 and U+0085 in the text": [
    bytewise(events(textChunk("a\u2028b\u2029c\u0085d"), textChunk("", "stop"), "[DONE]")),
    { 0: { text: "a\u2028b\u2029c\u0085d", finish_reason: "stop" } },
  ],
  "a character outside the BMP as two escapes": [
    stream(events(JSON.stringify(textChunk("😀", "stop")).replace("😀", "\\ud83d\\ude00"), "[DONE]")),
    { 0: { text: "😀", finish_reason: "stop" } },
  ],
  "text and finish reason in one chunk": [
    stream(events(textChunk("all", "length"), "[DONE]")),
    { 0: { text: "all", finish_reason: "length" } },
  ],
  "a finish reason that nobody knows": [
    stream(events(textChunk("x"), textChunk("", "eos_token"), "[DONE]")),
    { 0: { text: "x", finish_reason: "stop" } },
  ],
  "tool_calls as a finish reason": [
    stream(events(chatChunk({ content: "x" }), chatChunk({}, "tool_calls"), "[DONE]")),
    { 0: { text: "x", finish_reason: "stop" } },
    "openai-chat",
  ],
  "content_filter": [
    stream(events(textChunk("x"), textChunk("", "content_filter"), "[DONE]")),
    { 0: { text: "x", finish_reason: "content_filter" } },
  ],
  "pitfall 19: delta.text where text was expected": [
    stream(events(
      { id: "c", choices: [{ index: 0, delta: { text: "de" }, finish_reason: null }] },
      { id: "c", choices: [{ index: 0, delta: { content: "lta" }, finish_reason: null }] },
      textChunk("", "stop"),
      "[DONE]",
    )),
    { 0: { text: "delta", finish_reason: "stop" } },
  ],
  "pitfall 23: text null and missing keys": [
    stream(events({ choices: [{ index: 0, text: "x" }] }, { choices: [{ index: 0, text: null, finish_reason: "stop" }] }, "[DONE]")),
    { 0: { text: "x", finish_reason: "stop" } },
  ],
  "reasoning and role deltas": [
    stream(events(
      chatChunk({ role: "assistant" }),
      chatChunk({ reasoning_content: "hmm", content: null }),
      chatChunk({ reasoning: "hmm" }),
      chatChunk({ content: "x" }),
      chatChunk({}, "stop"),
      "[DONE]",
    )),
    { 0: { text: "x", finish_reason: "stop" } },
    "openai-chat",
  ],
};

// A latch for each dialect: the upstream stands still after its first event until the test has that event.
const STALLS = ["openai-completions", "openai-chat"].flatMap((dialect) =>
  ["\n", "\r\n"].map((ending) => ({ name: `stall ${dialect} ${JSON.stringify(ending)}`, dialect, ending, gate: latch() })),
);

function wholeStreams() {
  return Object.entries(SAME_TEXT).flatMap(([name, make]) => [
    [`${name} (completions)`, { script: make(COMPLETIONS), dialect: "openai-completions" }],
    [`${name} (chat)`, { script: make(CHAT), dialect: "openai-chat" }],
  ]);
}

suite("streams that must be understood", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: {
        ...Object.fromEntries(wholeStreams()),
        ...Object.fromEntries(Object.entries(OTHERS).map(([name, [script, , dialect]]) => [name, { script, dialect }])),
        ...Object.fromEntries(STALLS.map((stall) => [stall.name, { script: stallAfterFirstEvent(stall), dialect: stall.dialect }])),
        "pitfall 20: n = 2, interleaved": stream(events(
          textChunk("a", null, { choice: { index: 1 } }),
          textChunk("b"),
          textChunk("c", null, { choice: { index: 1 } }),
          textChunk("", "stop"),
          textChunk("", "length", { choice: { index: 1 } }),
          "[DONE]",
        )),
        "pitfall 20: two choices in one chunk": stream(events(
          { ...textChunk("a"), choices: [{ index: 0, text: "a", finish_reason: "stop" }, { index: 1, text: "b", finish_reason: "stop" }] },
          "[DONE]",
        )),
        logprobs: stream(events(
          JSON.stringify(textChunk("x")).replace('"logprobs":null', '"logprobs":{"tokens":["x"],"token_logprobs":[-Infinity],"top_logprobs":[{"x":-0.5,"y":NaN}],"text_offset":[3]}'),
          textChunk("y", "stop", { choice: { logprobs: { tokens: ["y"], token_logprobs: [-0.25], top_logprobs: [{ y: -0.25 }], text_offset: [4] } } }),
          "[DONE]",
        )),
      },
    });
  });
  after(() => gateway?.stop());

  async function streamed(model, more = {}) {
    const response = await gateway.complete({ model, prompt: "p", stream: true, ...more });
    const text = await response.text();
    assert.equal(response.status, 200, text);
    assert.ok(response.clean(), "the body ends as HTTP asks");
    return chunksOf(text);
  }

  for (const [name] of wholeStreams()) {
    test(name, async () => assert.deepEqual(choicesOf(await streamed(name)), ONE_CHOICE));
  }

  for (const [name, [, choices]] of Object.entries(OTHERS)) {
    test(name, async () => assert.deepEqual(choicesOf(await streamed(name)), choices));
  }

  test("pitfall 20: n = 2, interleaved", async () => {
    const chunks = await streamed("pitfall 20: n = 2, interleaved", { n: 2 });
    assert.deepEqual(choicesOf(chunks), { 0: { text: "b", finish_reason: "stop" }, 1: { text: "ac", finish_reason: "length" } });
  });

  test("pitfall 20: two choices in one chunk", async () => {
    const chunks = await streamed("pitfall 20: two choices in one chunk", { n: 2 });
    for (const chunk of chunks) assert.equal(chunk.choices.length, 1, "one choice a chunk");
    assert.deepEqual(choicesOf(chunks), { 0: { text: "a", finish_reason: "stop" }, 1: { text: "b", finish_reason: "stop" } });
  });

  test("NaN and -Infinity in logprobs lose neither the chunk nor its text", async () => {
    const chunks = await streamed("logprobs", { logprobs: 1 });
    assert.deepEqual(choicesOf(chunks), { 0: { text: "xy", finish_reason: "stop" } });
    for (const { choices: [choice] } of chunks.filter((chunk) => chunk.choices[0]?.logprobs)) {
      assert.deepEqual(Object.keys(choice.logprobs).sort(), ["text_offset", "token_logprobs", "tokens", "top_logprobs"]);
    }
    assert.deepEqual(chunks.find((chunk) => chunk.choices[0]?.text === "y").choices[0].logprobs, {
      tokens: ["y"], token_logprobs: [-0.25], top_logprobs: [{ y: -0.25 }], text_offset: [4],
    });
  });

  for (const stall of STALLS) {
    test(`pitfalls 17, 24 and 44: nothing is held back while the upstream stands still (${stall.name})`, async () => {
      const response = await gateway.complete({ model: stall.name, prompt: "p", stream: true });
      try {
        await response.contains("first");
        await response.contains("\n\n");
        assert.ok(!response.textSoFar().includes("second"));
      } finally {
        stall.gate.open();
      }
      assert.deepEqual(choicesOf(chunksOf(await response.text())), { 0: { text: "first second", finish_reason: "stop" } });
    });
  }
});

function stallAfterFirstEvent({ dialect, ending, gate }) {
  const chunk = dialect === "openai-chat" ? (text, finish) => chatChunk({ content: text }, finish) : textChunk;
  return pieces([
    lf(ending)(events(chunk("first"))),
    () => gate.opened,
    lf(ending)(events(chunk(" second", "stop"), "[DONE]")),
  ]);
}
