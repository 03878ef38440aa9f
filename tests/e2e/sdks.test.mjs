// The official SDKs of Node, Python and Go with only their base URL and key changed, reading chunks exactly as
// the API's documentation does, and raising what their users catch.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { join } from "node:path";
import { runJobs as runNodeJobs } from "./clients/node/openai.mjs";
import { startGateway } from "./harness/gateway.mjs";
import { HAIKU, HAIKU_MODELS } from "./harness/haiku.mjs";
import { makeKey } from "./harness/records.mjs";
import { runJobs } from "./harness/programs.mjs";
import { answer, cut, events, stream, textChunk, USAGE } from "./harness/scripts.mjs";

// tests/e2e/run says where these are. A run of this file alone does without what is not said.
const { E2E_PYTHON, E2E_GO_CLIENT } = process.env;

const SDKS = [
  { name: "openai-node", run: runNodeJobs },
  { name: "openai-python", missing: !E2E_PYTHON, run: (settings) => runJobs(E2E_PYTHON, [join(import.meta.dirname, "clients/python/client.py")], settings) },
  { name: "openai-go", missing: !E2E_GO_CLIENT, run: (settings) => runJobs(E2E_GO_CLIENT, [], settings) },
];

const SCRIPTS = {
  ...HAIKU_MODELS,
  "fails amid the stream": stream(events(textChunk("Pale"), { error: { message: "out of memory", type: "server_error" } })),
  "stops amid the stream": cut(events(textChunk("Pale")), "truncated"),
  "fails at once": answer(500, { error: { message: "out of memory" } }),
  "is busy": answer(429, { error: { message: "slow down" } }, { "Retry-After": "3" }),
};

// name → [the job, what the SDK must give]. Every SDK runs all of them.
const GOOD = Object.fromEntries(
  Object.keys(HAIKU_MODELS).flatMap((model) => [
    [`${model}, not streaming`, [{ model }, { text: HAIKU, finish_reason: "stop", usage: USAGE, model }]],
    [`${model}, streaming`, [{ model, stream: true }, { text: HAIKU, delta_text: HAIKU, finish_reason: "stop", usage: null, model, chunks: 5 }]],
    [`${model}, streaming with usage`, [
      { model, stream: true, params: { stream_options: { include_usage: true } } },
      { text: HAIKU, delta_text: HAIKU, finish_reason: "stop", usage: USAGE, model, chunks: 6 },
    ]],
  ]),
);

const REFUSAL = "invalid_request_error";
const BAD = {
  "an unknown key": [{ model: "babbage-002", api_key: makeKey().text }, { class: "AuthenticationError", status: 401, type: REFUSAL, param: null, code: "invalid_api_key" }],
  "an unknown key, streaming": [{ model: "babbage-002", api_key: makeKey().text, stream: true }, { class: "AuthenticationError", status: 401, type: REFUSAL, param: null, code: "invalid_api_key" }],
  "an unknown model": [{ model: "nope" }, { class: "NotFoundError", status: 404, type: REFUSAL, param: "model", code: "model_not_found" }],
  "a parameter out of range": [
    { model: "babbage-002", params: { max_tokens: -1 } },
    { class: "BadRequestError", status: 400, type: REFUSAL, param: "max_tokens", code: "integer_below_min_value", message: "Invalid 'max_tokens': integer below minimum value. Expected a value >= 0, but got -1 instead." },
  ],
  "an upstream that fails": [{ model: "fails at once" }, { class: "InternalServerError", status: 502, type: "api_error", param: null, code: "upstream_error" }],
  "an upstream that fails, streaming": [{ model: "fails at once", stream: true }, { class: "InternalServerError", status: 502, type: "api_error", param: null, code: "upstream_error" }],
  "an upstream that is busy": [{ model: "is busy" }, { class: "RateLimitError", status: 429, type: "requests", param: null, code: "upstream_rate_limited" }],
};
const BROKEN_STREAMS = {
  "an error amid the stream": [{ model: "fails amid the stream", stream: true }, { type: "api_error", param: null, code: "upstream_error" }],
  "a stream that is cut": [{ model: "stops amid the stream", stream: true }, { type: "api_error", param: null, code: "upstream_incomplete" }],
};

suite("official SDKs", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({ scripts: SCRIPTS });
  });
  after(() => gateway?.stop());

  for (const sdk of SDKS) {
    suite(sdk.name, { skip: sdk.missing ? "not set up: tests/e2e/run does that" : false }, () => {
      let results;
      before(async () => {
        const jobs = Object.entries({ ...GOOD, ...BAD, ...BROKEN_STREAMS })
          .map(([name, [job]]) => ({ name, library: "openai", stream: false, ...job }));
        results = await sdk.run({ base_url: gateway.baseURL, api_key: gateway.key, jobs });
      });

      for (const [name, [, expected]] of Object.entries(GOOD)) {
        test(name, () => assert.deepEqual(pick(results[name], expected), expected));
      }

      for (const [name, [, expected]] of Object.entries(BAD)) {
        test(name, () => {
          const wanted = sdk.name === "openai-go" ? { ...expected, class: "Error" } : expected;
          assert.deepEqual(pick(results[name].error, wanted), wanted);
        });
      }

      for (const [name, [, expected]] of Object.entries(BROKEN_STREAMS)) {
        test(name, () => {
          const wanted = { class: sdk.name === "openai-go" ? "StreamError" : "APIError", ...expected };
          assert.equal(results[name].text, "Pale", "what came before the error has been seen");
          assert.deepEqual(pick(results[name].error, wanted), wanted);
          assert.equal(results[name].finish_reason || null, null, "no finish reason is made up");
        });
      }
    });
  }
});

/** The expected keys of a result; a key that is absent or empty, as Go has it, counts as null. */
function pick(result, expected) {
  assert.ok(result, "the SDK raised an error, or none, against what was expected");
  return Object.fromEntries(Object.keys(expected).map((key) => [key, result[key] === "" ? null : (result[key] ?? null)]));
}
