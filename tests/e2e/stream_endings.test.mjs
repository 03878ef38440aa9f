// How a stream that goes wrong ends. Before the first chunk a failure is a plain HTTP error; after it, one error
// event and [DONE]. Nothing that failed may look like success.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { startGateway, UPSTREAM_KEY } from "./harness/gateway.mjs";
import { answer, bytewise, chatChunk, closeDelimited, cut, events, pieces, stream, textChunk } from "./harness/scripts.mjs";
import { assertErrorShape, splitAtError } from "./harness/sse.mjs";
import { latch } from "./harness/wait.mjs";

const HELLO = events(textChunk("Hello"));
const HALF_EVENT = 'data: {"id":"x","choices":[{"index":0,"text":"ha';
const MAX_EVENT_BYTES = 4096;
const HELLO_SEEN = { one: latch(), two: latch() };
const INTERNAL = "gpu-7.internal died at 10.0.0.9";

// name → [script, the error's code, more]: "Hello" reaches the client, then the error event.
const AFTER_THE_FIRST_CHUNK = {
  "no finish reason and no [DONE]": [stream(HELLO), "upstream_incomplete"],
  "no finish reason and no [DONE], chat": [stream(events(chatChunk({ content: "Hello" }))), "upstream_incomplete", { dialect: "openai-chat" }],
  "one of two choices never finished": [
    stream(events(textChunk("Hello"), textChunk("x", null, { choice: { index: 1 } }), textChunk("", "stop"))),
    "upstream_incomplete",
    { request: { n: 2 } },
  ],
  "connection closed without a length": [closeDelimited(HELLO), "upstream_incomplete"],
  "pitfall 42: RST after an event": [cut(HELLO, "reset", HELLO_SEEN.one), "upstream_incomplete", { gate: HELLO_SEEN.one }],
  "pitfall 42: RST amid an event": [cut(HELLO + HALF_EVENT, "reset", HELLO_SEEN.two), "upstream_incomplete", { gate: HELLO_SEEN.two }],
  "pitfall 42: chunked body without its last chunk": [cut(HELLO, "no last chunk"), "upstream_incomplete"],
  "pitfall 42: chunked body cut amid a chunk": [cut(HELLO, "truncated"), "upstream_incomplete"],
  "ended amid an event": [stream(HELLO + HALF_EVENT), "upstream_incomplete"],
  "ended amid an event, bytes one at a time": [bytewise(HELLO + HALF_EVENT), "upstream_incomplete"],
  "ended amid a character": [pieces([HELLO, Buffer.from(`${HALF_EVENT}ö`).subarray(0, -1)]), "upstream_incomplete"],
  "pitfall 25: error event": [stream(HELLO + events({ error: { message: INTERNAL, type: "server_error", param: null, code: null } }, "[DONE]")), "upstream_error"],
  "pitfall 25: error event without [DONE]": [stream(HELLO + events({ error: { message: INTERNAL, type: "server_error" } })), "upstream_error"],
  "pitfall 25: error event named by its event line": [stream(`${HELLO}event: error\n${events({ error: { message: INTERNAL } })}`), "upstream_error"],
  "pitfall 25: error event with choices beside it": [stream(HELLO + events({ ...textChunk(""), error: { message: INTERNAL, code: 500 } })), "upstream_error"],
  "pitfall 25: error as a string": [stream(HELLO + events({ error: INTERNAL })), "upstream_error"],
  "an event that is not JSON": [stream(`${HELLO}data: <html>${INTERNAL}\n\n`), "upstream_error"],
  "an event that is JSON but no object": [stream(`${HELLO}data: 42\n\n`), "upstream_error"],
};

// name → [script, status, code, more]: a plain HTTP error, since no chunk could be written.
const BEFORE_THE_FIRST_CHUNK = {
  "empty body": [answer(200, "", { "Content-Type": "text/event-stream" }), 502, /^upstream_(error|incomplete)$/],
  "empty chunked body": [stream(""), 502, /^upstream_(error|incomplete)$/],
  "pitfall 21: HTML": [answer(200, `<html>${INTERNAL}</html>`), 502, /^upstream_error$/],
  "nonsense as an event stream": [stream(`${INTERNAL} \x00\x01\n\n`), 502, /^upstream_(error|incomplete)$/],
  "nonsense in the first event": [stream("data: nonsense\n\n"), 502, /^upstream_error$/],
  "pitfall 21: JSON that is no completion": [answer(200, { hello: "world" }), 502, /^upstream_error$/],
  "cut before the first event": [cut("", "reset"), 502, /^upstream_(error|incomplete)$/],
  "cut amid the first event": [cut(HALF_EVENT, "truncated"), 502, /^upstream_(error|incomplete)$/],
  "only [DONE]'s absence": [stream(": comment\n\n"), 502, /^upstream_(error|incomplete)$/],
  "a server's fault as the first event": [stream(events({ error: { message: INTERNAL, type: "server_error" } }, "[DONE]")), 502, /^upstream_error$/],
  "a JSON error with status 200": [answer(200, { error: { message: INTERNAL, type: "server_error" } }), 502, /^upstream_error$/],
};

suite("streams that go wrong", () => {
  let gateway;
  before(async () => {
    const scriptsOf = (table, moreAt) =>
      Object.fromEntries(Object.entries(table).map(([name, row]) => [name, { script: row[0], dialect: row[moreAt]?.dialect }]));
    gateway = await startGateway({
      scripts: {
        ...scriptsOf(AFTER_THE_FIRST_CHUNK, 2),
        ...scriptsOf(BEFORE_THE_FIRST_CHUNK, 3),
        "client's fault as the first event": stream(events(
          { error: { message: "Requested too many logprobs", type: "BadRequestError", param: "logprobs", code: 400 } },
          "[DONE]",
        )),
        "endless line": endlessLine(HELLO),
        "endless first line": endlessLine(""),
        "our secrets in an error event": stream(HELLO + events({ error: { message: `key ${UPSTREAM_KEY}`, type: "server_error" } })),
      },
      configure: (config) => ({ ...config, limits: { max_event_bytes: MAX_EVENT_BYTES } }),
    });
  });
  after(() => gateway?.stop());

  const call = (model, more = {}) => gateway.complete({ model, prompt: "p", stream: true, ...more });

  for (const [name, [, code, { request, gate } = {}]] of Object.entries(AFTER_THE_FIRST_CHUNK)) {
    test(`after the first chunk: ${name}`, async () => {
      const response = await call(name, request);
      if (gate) await response.contains("Hello").finally(gate.open);
      const text = await response.text();
      assert.equal(response.status, 200, text);
      const [chunks, error] = splitAtError(text);
      assert.equal(chunks[0].choices[0].text, "Hello");
      assert.equal(error.type, "api_error");
      assert.equal(error.code, code);
      assert.equal(error.param, null);
      assert.ok(!text.includes(INTERNAL), "what an upstream says of itself is not for clients");
      assert.ok(!text.includes('"text":"ha'), "no part of a broken event");
      assert.ok(response.clean(), "the error is in the stream, so the body itself ends well");
    });
  }

  for (const [name, [, status, code]] of Object.entries(BEFORE_THE_FIRST_CHUNK)) {
    test(`before the first chunk: ${name}`, async () => {
      const response = await call(name);
      const text = await response.text();
      assert.equal(response.status, status, text);
      assert.match(response.headers["content-type"], /^application\/json/);
      const { error } = JSON.parse(text);
      assertErrorShape(error);
      assert.equal(error.type, "api_error");
      assert.match(error.code, code);
      assert.ok(!text.includes(INTERNAL));
    });
  }

  test("pitfall 25: a client's fault told in the first event is a 400 with the upstream's words", async () => {
    const response = await call("client's fault as the first event");
    const { error } = await response.json();
    assertErrorShape(error);
    assert.equal(response.status, 400);
    assert.equal(error.type, "invalid_request_error");
    assert.equal(error.message, "Requested too many logprobs");
    assert.equal(error.param, "logprobs");
  });

  test("pitfall 22: an endless line after an event is bounded, and ends the stream and the upstream", async () => {
    const response = await call("endless line");
    const [chunks, error] = splitAtError(await response.text());
    assert.equal(chunks[0].choices[0].text, "Hello");
    assert.equal(error.code, "upstream_error");
    const request = await gateway.upstream.requestFor("endless line");
    await request.connectionClosed("the endless upstream's connection to be closed");
  });

  test("pitfall 22: an endless first line is a 502 and ends the upstream", async () => {
    const response = await call("endless first line");
    assert.equal(response.status, 502);
    assert.equal((await response.json()).error.code, "upstream_error");
    const request = await gateway.upstream.requestFor("endless first line");
    await request.connectionClosed("the endless upstream's connection to be closed");
  });

  test("pitfall 35: an error event never carries the upstream's key", async () => {
    const response = await call("our secrets in an error event");
    assert.ok(!(await response.text()).includes(UPSTREAM_KEY));
  });
});

/** A line that goes on well past the limit and then waits, so that only the Worker can end it. */
function endlessLine(before) {
  return pieces([
    `${before}data: {"text":"`,
    async (exchange) => {
      for (let sent = 0; sent < 4 * MAX_EVENT_BYTES; sent += 1024) await exchange.chunk("x".repeat(1024));
      await exchange.closed;
    },
  ]);
}
