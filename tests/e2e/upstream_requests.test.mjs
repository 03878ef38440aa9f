// What the upstream is sent: its own key and nothing of the client's, and the request as its dialect has it.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { startGateway, UPSTREAM_KEY } from "./harness/gateway.mjs";
import { answer, chatChunk, chatCompletion, completion, events, stream, textChunk } from "./harness/scripts.mjs";

// The headers that the upstream may see; the runtime adds some of its own.
const ALLOWED = ["host", "content-type", "content-length", "transfer-encoding", "authorization", "accept", "accept-encoding", "connection", "user-agent", "cf-worker"];

const FULL = {
  prompt: "Once",
  max_tokens: 5,
  temperature: 0.5,
  top_p: 0.25,
  n: 2,
  stop: ["\n", "END"],
  seed: 9007199254740993n,
  frequency_penalty: 1.5,
  presence_penalty: -1.5,
  user: "u-1",
};

const PROMPTS = {
  string: "Once",
  "empty string": "",
  strings: ["Once", "Twice"],
  tokens: [1, 2, 3],
  "arrays of tokens": [[1], [2, 3]],
};

suite("what the upstream is sent", () => {
  let gateway;
  before(async () => {
    const completions = manyChoices(completion("ok"));
    const chat = manyChoices(chatCompletion("ok"));
    gateway = await startGateway({
      scripts: {
        headers: completions,
        "headers chat": { script: chat, dialect: "openai-chat" },
        "no key": { script: completions, upstream: { key: undefined } },
        full: completions,
        "full chat": { script: chat, dialect: "openai-chat" },
        defaults: completions,
        "defaults chat": { script: chat, dialect: "openai-chat" },
        "own default": { script: completions, model: { default_max_tokens: 99 } },
        "max_completion_tokens": { script: chat, dialect: "openai-chat", upstream: { max_tokens_field: "max_completion_tokens" } },
        system: { script: chat, dialect: "openai-chat", model: { system: "Be brief." } },
        unknown: completions,
        streaming: stream(events(textChunk("x", "stop"), "[DONE]")),
        "streaming chat": { script: stream(events(chatChunk({ content: "x" }, "stop"), "[DONE]")), dialect: "openai-chat" },
        "streaming without usage": { script: stream(events(textChunk("x", "stop"), "[DONE]")), upstream: { stream_usage: false } },
        "logprobs chat": { script: chat, dialect: "openai-chat" },
        "org/model:1?x=%2e%2e": completions,
        ...Object.fromEntries(Object.keys(PROMPTS).map((name) => [`prompt: ${name}`, completions])),
      },
    });
  });
  after(() => gateway?.stop());

  async function sent(model, body = {}, headers = {}) {
    const text = JSON.stringify({ model, prompt: "p", ...body }, (_, value) => (typeof value === "bigint" ? `big${value}` : value))
      .replaceAll(/"big(\d+)"/g, "$1");
    const response = await gateway.complete(text, { headers });
    const answered = await response.text();
    assert.equal(response.status, 200, answered);
    return gateway.upstream.requestFor(model);
  }

  for (const [model, path] of [["headers", "/openai-completions/v1/completions"], ["headers chat", "/openai-chat/v1/chat/completions"]]) {
    test(`pitfall 38: path and headers (${model})`, async () => {
      const request = await sent(model, {}, {
        cookie: "session=client-secret",
        "x-api-key": "client-secret",
        "x-forwarded-for": "203.0.113.7",
        "openai-organization": "org-client",
        "user-agent": "client/1.0",
        "x-request-id": "client-id-1",
        "proxy-authorization": "Basic client-secret",
        te: "trailers",
      });
      assert.equal(request.method, "POST");
      assert.equal(request.path, path);
      assert.equal(request.header("authorization"), `Bearer ${UPSTREAM_KEY}`);
      assert.match(request.header("content-type"), /^application\/json/);
      assert.equal(request.header("host"), `127.0.0.1:${gateway.upstream.port}`);
      for (const [name, value] of request.headers) {
        assert.ok(ALLOWED.includes(name.toLowerCase()), `${name}: ${value}`);
        for (const secret of ["client", "203.0.113.7", gateway.key]) assert.ok(!value.includes(secret), `${name}: ${value}`);
      }
    });
  }

  test("no key configured, no authorization sent", async () => {
    assert.equal((await sent("no key")).header("authorization"), undefined);
  });

  test("every parameter, completions", async () => {
    const more = { logprobs: 2, echo: true, best_of: 3, suffix: "end", logit_bias: { 50256: -100 } };
    const request = await sent("full", { ...FULL, ...more });
    const { seed, ...rest } = FULL;
    const { seed: _, model, stream: streaming, ...got } = request.json;
    assert.deepEqual(got, { ...rest, ...more });
    assert.equal(model, "full");
    assert.ok(!streaming);
    assert.match(request.body, /"seed":\s*9007199254740993\b/, "a seed loses no digit");
  });

  test("every parameter that chat has", async () => {
    const request = await sent("full chat", { ...FULL, logit_bias: { 50256: -100 } });
    const { seed, prompt, ...rest } = FULL;
    const { seed: _, model, stream: streaming, ...got } = request.json;
    assert.deepEqual(got, { ...rest, logit_bias: { 50256: -100 }, messages: [{ role: "user", content: prompt }] });
    assert.equal(model, "full chat");
    assert.ok(!streaming);
    assert.match(request.body, /"seed":\s*9007199254740993\b/);
  });

  test("chat: logprobs N is logprobs true and top_logprobs N", async () => {
    const { json } = await sent("logprobs chat", { logprobs: 3 });
    assert.deepEqual([json.logprobs, json.top_logprobs], [true, 3]);
  });

  test("max_tokens is the API's default where the client names none", async () => {
    assert.equal((await sent("defaults")).json.max_tokens, 16);
    assert.equal((await sent("defaults chat")).json.max_tokens, 16);
    assert.equal((await sent("own default")).json.max_tokens, 99);
  });

  test("chat: the field for max_tokens and the system message are configured", async () => {
    const { json } = await sent("max_completion_tokens", { max_tokens: 7 });
    assert.deepEqual([json.max_completion_tokens, json.max_tokens], [7, undefined]);
    assert.deepEqual((await sent("system")).json.messages, [
      { role: "system", content: "Be brief." },
      { role: "user", content: "p" },
    ]);
  });

  test("unknown parameters go on unchanged", async () => {
    const text = '{"model":"unknown","prompt":"p","top_k":5,"min_p":5.0e-2,"guided_json":{"z":1,"a":[2.50,null]},"big":12345678901234567890}';
    const response = await gateway.complete(text);
    assert.equal(response.status, 200, await response.text());
    const { body } = await gateway.upstream.requestFor("unknown");
    for (const part of ['"top_k":5', '"min_p":5.0e-2', '"guided_json":{"z":1,"a":[2.50,null]}', '"big":12345678901234567890']) {
      assert.ok(body.includes(part), `${part} in ${body}`);
    }
  });

  test("pitfall 27: usage is asked for on streams, unless the upstream does not know how", async () => {
    for (const model of ["streaming", "streaming chat"]) {
      const { json } = await sent(model, { stream: true });
      assert.equal(json.stream, true);
      assert.equal(json.stream_options.include_usage, true);
    }
    const { json } = await sent("streaming without usage", { stream: true, stream_options: { include_usage: false } });
    assert.equal(json.stream, true);
    assert.equal(json.stream_options, undefined);
  });

  for (const [name, prompt] of Object.entries(PROMPTS)) {
    test(`prompt: ${name}`, async () => {
      assert.deepEqual((await sent(`prompt: ${name}`, { prompt })).json.prompt, prompt);
    });
  }

  test("pitfall 37: a model's name never gets into the path", async () => {
    const request = await sent("org/model:1?x=%2e%2e");
    assert.equal(request.path, "/openai-completions/v1/completions");
  });
});

/** An answer with as many choices as the request asks for. */
function manyChoices(whole) {
  return (exchange) => {
    const { prompt, n = 1 } = exchange.request.json;
    const prompts = Array.isArray(prompt) && typeof prompt[0] !== "number" ? prompt.length : 1;
    const choices = Array.from({ length: prompts * n }, (_, index) => ({ ...whole.choices[0], index }));
    return answer(200, { ...whole, choices })(exchange);
  };
}
