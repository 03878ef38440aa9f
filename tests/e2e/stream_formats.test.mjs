// The bytes of our own chunks: the three chunk formats, usage, headers, and JSON replayed as a stream.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { completionCall, startGateway } from "./harness/gateway.mjs";
import { send } from "./harness/http_client.mjs";
import { answer, chatChunk, chatCompletion, completion, events, stream, textChunk, USAGE } from "./harness/scripts.mjs";
import { choicesOf, chunksOf } from "./harness/sse.mjs";

const STREAM = stream(events(textChunk("The"), textChunk("", "stop"), { ...textChunk(""), choices: [], usage: USAGE }, "[DONE]"));
const CHAT_STREAM = stream(events(chatChunk({ content: "The" }), chatChunk({}, "stop"), { ...chatChunk(""), choices: [], usage: USAGE }, "[DONE]"));

// A chunk of each format as text, with the values that differ from stream to stream put in.
const LINES = {
  superset: ({ id, created, model }, text, finish) =>
    `{"id":"${id}","object":"text_completion.chunk","created":${created},"model":"${model}","choices":[{"index":0,"delta":{"text":"${text}"},"text":"${text}","logprobs":null,"finish_reason":${finish}}]}`,
  documented: ({ id }, text, finish) =>
    `{"id":"${id}","object":"text_completion.chunk","choices":[{"index":0,"delta":{"text":"${text}"},"finish_reason":${finish}}]}`,
  openai: ({ id, created, model }, text, finish) =>
    ({ id, object: "text_completion", created, model, choices: [{ index: 0, text, logprobs: null, finish_reason: JSON.parse(finish) }] }),
};

// How the format was chosen → [format, model, key's record, headers]. Where two disagree, the more special wins.
const CHOICES = {
  "nothing chosen": ["superset", "plain", {}, {}],
  "the header: documented": ["documented", "plain", {}, { "x-completions-format": "documented" }],
  "the header: openai": ["openai", "plain", {}, { "x-completions-format": "openai" }],
  "the header: superset, over the key": ["superset", "plain", { chunk_format: "openai" }, { "x-completions-format": "superset" }],
  "the key's record": ["openai", "plain", { chunk_format: "openai" }, {}],
  "the model": ["documented", "documented-model", {}, {}],
  "the header, over the model": ["openai", "documented-model", {}, { "x-completions-format": "openai" }],
  "chat, nothing chosen": ["superset", "chat", {}, {}],
  "chat, the header": ["documented", "chat", {}, { "x-completions-format": "documented" }],
};

suite("our own chunks", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: {
        plain: STREAM,
        chat: { script: CHAT_STREAM, dialect: "openai-chat" },
        "documented-model": { script: STREAM, model: { chunk_format: "documented" } },
        "usage on the finish chunk": stream(events(textChunk("The"), textChunk("", "stop", { usage: USAGE }), "[DONE]")),
        "usage in a summary event": stream(events(textChunk("The"), textChunk("", "stop"), { usage: USAGE }, "[DONE]")),
        "usage on every chunk": stream(events(
          textChunk("The", null, { usage: { prompt_tokens: 7, completion_tokens: 1, total_tokens: 8 } }),
          textChunk("", "stop", { usage: USAGE }),
          "[DONE]",
        )),
        "usage with zeros": stream(events(
          textChunk("The"),
          textChunk("", "stop"),
          { choices: [], usage: { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 } },
          "[DONE]",
        )),
        "JSON": answer(200, completion("The")),
        "JSON chat": { script: answer(200, chatCompletion("The")), dialect: "openai-chat" },
      },
    });
  });
  after(() => gateway?.stop());

  const call = (model, more = {}, options = {}) => gateway.complete({ model, prompt: "p", stream: true, ...more }, options);

  for (const [name, [format, model, keyFields, headers]] of Object.entries(CHOICES)) {
    test(`chunk format by ${name}`, async () => {
      const key = await gateway.addKey(keyFields);
      const response = await send(gateway.port, completionCall(key, { model, prompt: "p", stream: true }, { headers }));
      const text = await response.text();
      assert.equal(response.status, 200, text);
      const [first] = chunksOf(text);
      const values = { id: first.id, created: first.created, model };
      if (format !== "documented") assert.ok(Number.isInteger(first.created));
      const line = LINES[format];
      if (format === "openai") {
        // The order of keys is ours to choose here: the values are what the name promises.
        assert.deepEqual(chunksOf(text), [line(values, "The", "null"), line(values, "", '"stop"')]);
      } else {
        assert.equal(text, `data: ${line(values, "The", "null")}\n\ndata: ${line(values, "", '"stop"')}\n\ndata: [DONE]\n\n`);
      }
    });
  }

  test("an unknown chunk format is refused", async () => {
    const response = await call("plain", {}, { headers: { "x-completions-format": "xml" } });
    const { error } = await response.json();
    assert.deepEqual([response.status, error.type, error.param, error.code], [400, "invalid_request_error", null, null]);
  });

  test("pitfall 36: headers of a stream", async () => {
    const response = await call("plain");
    assert.equal(response.headers["content-type"], "text/event-stream; charset=utf-8");
    assert.equal(response.headers["cache-control"], "no-cache");
    assert.equal(response.headers["content-encoding"], undefined);
    assert.equal(response.headers["content-length"], undefined);
    assert.match(response.headers["x-request-id"], /^req_[0-9a-f]+$/);
    assert.equal(response.headers["openai-version"], "2020-10-01");
    await response.text();
  });

  test("Accept decides nothing", async () => {
    const response = await call("plain", {}, { headers: { accept: "application/json" } });
    assert.equal(response.headers["content-type"], "text/event-stream; charset=utf-8");
    await response.text();
  });

  test("pitfall 27: without include_usage no chunk has a usage key", async () => {
    for (const model of ["plain", "usage on the finish chunk", "usage in a summary event", "usage on every chunk", "JSON"]) {
      const text = await (await call(model)).text();
      for (const chunk of chunksOf(text)) {
        assert.ok(!("usage" in chunk), `${model}: ${JSON.stringify(chunk)}`);
        assert.equal(chunk.choices.length, 1);
      }
    }
  });

  const USAGES = {
    plain: USAGE,
    chat: USAGE,
    "usage on the finish chunk": USAGE,
    "usage in a summary event": USAGE,
    "usage on every chunk": USAGE,
    "usage with zeros": { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 },
    JSON: USAGE,
    "JSON chat": USAGE,
  };
  for (const [model, usage] of Object.entries(USAGES)) {
    test(`include_usage: null on every chunk, then one last chunk (${model})`, async () => {
      const chunks = chunksOf(await (await call(model, { stream_options: { include_usage: true } })).text());
      const last = chunks.pop();
      for (const chunk of chunks) {
        assert.equal(chunk.usage, null);
        assert.equal(chunk.choices.length, 1);
      }
      assert.deepEqual(last.choices, []);
      const { prompt_tokens, completion_tokens, total_tokens } = last.usage;
      assert.deepEqual({ prompt_tokens, completion_tokens, total_tokens }, usage);
      assert.equal(last.model, model);
    });
  }

  for (const model of ["JSON", "JSON chat"]) {
    test(`a whole completion where a stream was asked for is replayed as one (${model})`, async () => {
      const response = await call(model);
      assert.equal(response.headers["content-type"], "text/event-stream; charset=utf-8");
      assert.deepEqual(choicesOf(chunksOf(await response.text())), { 0: { text: "The", finish_reason: "stop" } });
    });
  }
});
