// What a client is answered when all is well: completions, response headers, models, health.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { startGateway } from "./harness/gateway.mjs";
import { send } from "./harness/http_client.mjs";
import { answer, chatCompletion, completion, events, gzipAnswer, stream, textChunk, USAGE } from "./harness/scripts.mjs";

const MODELS = ["demo", "chat", "org/model", "streamed", "gzipped", "two choices", "drifting"];
const PARAMETERS = [
  "prompt", "best_of", "echo", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "max_tokens", "n",
  "seed", "stop", "stream", "stream_options", "suffix", "temperature", "top_p", "user",
];

suite("answers", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: {
        demo: { script: answer(200, completion("ok")), model: { owned_by: "us", created: 1_700_000_000 } },
        chat: { script: answer(200, chatCompletion("ok")), dialect: "openai-chat" },
        "org/model": answer(200, completion("ok")),
        streamed: stream(events(textChunk("x", "stop"), "[DONE]")),
        gzipped: gzipAnswer(200, completion("ok")),
        "two choices": answer(200, completion("a", {
          choices: [
            { index: 1, text: "b", logprobs: null, finish_reason: "length" },
            { index: 0, text: "a", logprobs: null, finish_reason: "stop" },
          ],
        })),
        drifting: answer(200, {
          id: "123e4567-e89b-12d3-a456-426614174000",
          object: "text_completion",
          choices: [{ index: 0, text: "ok", finish_reason: "eos" }],
          extra: { a: 1 },
        }),
      },
    });
  });
  after(() => gateway?.stop());

  for (const model of ["demo", "chat", "org/model", "gzipped"]) {
    test(`a completion (${model})`, async () => {
      const response = await gateway.complete({ model, prompt: "p" });
      const { id, created, ...rest } = await response.json();
      assert.equal(response.status, 200);
      assert.match(response.headers["content-type"], /^application\/json/);
      assert.equal(response.headers["content-encoding"], undefined);
      assert.match(id, /^cmpl-/);
      assert.ok(Number.isInteger(created));
      assert.deepEqual(rest, {
        object: "text_completion",
        model,
        choices: [{ index: 0, text: "ok", logprobs: null, finish_reason: "stop" }],
        usage: USAGE,
      });
    });
  }

  test("several choices come in the order of their index", async () => {
    const { choices } = await (await gateway.complete({ model: "two choices", prompt: "p", n: 2 })).json();
    assert.deepEqual(choices.map(({ index, text, finish_reason }) => [index, text, finish_reason]), [[0, "a", "stop"], [1, "b", "length"]]);
  });

  test("an upstream's drift stays with us", async () => {
    const { id, object, created, model, choices } = await (await gateway.complete({ model: "drifting", prompt: "p" })).json();
    assert.match(id, /^cmpl-/);
    assert.ok(Number.isInteger(created));
    assert.deepEqual([object, model], ["text_completion", "drifting"]);
    assert.deepEqual(choices, [{ index: 0, text: "ok", logprobs: null, finish_reason: "stop" }]);
  });

  const RESPONSES = {
    completion: () => gateway.complete({ model: "demo", prompt: "p" }),
    stream: () => gateway.complete({ model: "streamed", prompt: "p", stream: true }),
    "400": () => gateway.complete("{"),
    "404": () => gateway.get("/nowhere"),
    models: () => gateway.get("/v1/models"),
  };
  for (const [name, request] of Object.entries(RESPONSES)) {
    test(`headers of every response (${name})`, async () => {
      const { headers } = await request();
      assert.match(headers["x-request-id"], /^req_[0-9a-f]+$/);
      assert.equal(headers["openai-version"], "2020-10-01");
      assert.match(headers["openai-processing-ms"], /^\d+$/);
      assert.ok(headers["server-timing"]);
      assert.match(headers["access-control-expose-headers"], /x-request-id/i);
    });
  }

  const REQUEST_IDS = {
    "client-1.2_3": "client-1.2_3",
    [`a${"b".repeat(127)}`]: `a${"b".repeat(127)}`,
    [`a${"b".repeat(128)}`]: null,
    "has space": null,
    "<script>": null,
  };
  for (const [given, expected] of Object.entries(REQUEST_IDS)) {
    test(`x-request-id ${given.slice(0, 20)} is ${expected ? "kept" : "replaced"}`, async () => {
      const response = await gateway.complete({ model: "demo", prompt: "p" }, { headers: { "x-request-id": given } });
      if (expected) assert.equal(response.headers["x-request-id"], expected);
      else assert.match(response.headers["x-request-id"], /^req_[0-9a-f]+$/);
      await response.text();
    });
  }

  test("two requests have two ids", async () => {
    const ids = await Promise.all([1, 2].map(async () => (await gateway.complete({ model: "demo", prompt: "p" })).headers["x-request-id"]));
    assert.notEqual(ids[0], ids[1]);
  });

  test("GET /v1/models lists what the key may use", async () => {
    const response = await gateway.get("/v1/models");
    const list = await response.json();
    assert.equal(response.status, 200);
    assert.equal(list.object, "list");
    assert.deepEqual(list.data.map((model) => model.id).sort(), [...MODELS].sort());
    for (const model of list.data) {
      assert.equal(model.object, "model");
      assert.ok(Number.isInteger(model.created));
      assert.equal(typeof model.owned_by, "string");
      for (const name of PARAMETERS) assert.match(model.capabilities[name] ?? "", /^(native|emulated|unsupported)$/, name);
    }
    const demo = list.data.find((model) => model.id === "demo");
    assert.deepEqual([demo.owned_by, demo.created, demo.capabilities.suffix], ["us", 1_700_000_000, "native"]);
    assert.equal(list.data.find((model) => model.id === "chat").capabilities.suffix, "unsupported");
  });

  test("GET /v1/models with a key that may use one of them", async () => {
    const key = await gateway.addKey({ models: ["org/model"] });
    const get = (path) => send(gateway.port, { path, headers: { authorization: `Bearer ${key}` } });
    assert.deepEqual((await (await get("/v1/models")).json()).data.map((model) => model.id), ["org/model"]);
    assert.equal((await get("/v1/models/org/model")).status, 200);
    assert.equal((await get("/v1/models/demo")).status, 404);
  });

  for (const [path, id] of [["demo", "demo"], ["org/model", "org/model"], ["org%2Fmodel", "org/model"], ["two%20choices", "two choices"]]) {
    test(`GET /v1/models/${path}`, async () => {
      const response = await gateway.get(`/v1/models/${path}`);
      const model = await response.json();
      assert.equal(response.status, 200, JSON.stringify(model));
      assert.deepEqual([model.id, model.object], [id, "model"]);
    });
  }

  for (const path of ["nope", "org", "%E0%A4%A"]) {
    test(`GET /v1/models/${path} is not found`, async () => {
      const response = await gateway.get(`/v1/models/${path}`);
      const { error } = await response.json();
      assert.equal(response.status, 404);
      assert.deepEqual([error.type, error.param, error.code], ["invalid_request_error", "model", "model_not_found"]);
    });
  }

  test("GET /healthz needs no key", async () => {
    const response = await send(gateway.port, { path: "/healthz" });
    assert.equal(response.status, 200);
    assert.ok(response.headers["x-request-id"]);
    await response.text();
  });
});
