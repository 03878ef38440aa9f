// Every dialect over real wires: what the upstream gets, and what official SDKs make of its answers, whole, in streams
// that are cut anywhere, and in failures. The table of the dialects is harness/dialects.mjs.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { runJobs as runNodeJobs } from "./clients/node/openai.mjs";
import { AWS_KEYS, DIALECTS, INTERNAL, modelOf, ODD_MODEL, PARAMS, PROMPT } from "./harness/dialects.mjs";
import { startGateway } from "./harness/gateway.mjs";
import { HAIKU, PIECES } from "./harness/haiku.mjs";
import { runJobs } from "./harness/programs.mjs";
import { answer, bytewise, oddPieces, pieces, stream, talkUntilGone, USAGE } from "./harness/scripts.mjs";
import { choicesOf, chunksOf, splitAtError } from "./harness/sse.mjs";
import { latch } from "./harness/wait.mjs";
import { startWireUpstream } from "./harness/wire_upstream.mjs";

// tests/e2e/run says where these are. A run of this file alone does without what is not said.
const { E2E_PYTHON, E2E_GO_CLIENT } = process.env;
const FIXTURES = join(import.meta.dirname, "../fixtures");

const SDKS = {
  "openai-node": runNodeJobs,
  "openai-python": E2E_PYTHON && ((settings) => runJobs(E2E_PYTHON, [join(import.meta.dirname, "clients/python/client.py")], settings)),
  "openai-go": E2E_GO_CLIENT && ((settings) => runJobs(E2E_GO_CLIENT, [], settings)),
};

// What the runtime adds to a call: `cf-worker` names the operator's zone, and a binding's service needs no such thing.
// In Cloudflare's network it also adds headers of its own (`cf-ray`, `cdn-loop` and others), which no Worker can set.
const ofTheRuntime = ({ byBinding }) => ["content-length", "host", ...(byBinding ? [] : ["cf-worker"])];
const OF_EVERY_CALL = ["accept", "accept-encoding", "content-type"];
const OPERATORS = { "x-operator": "theirs" };

/** What a client may try to have sent along. */
const SMUGGLED = {
  cookie: "session=client-secret",
  "x-forwarded-for": "203.0.113.7",
  forwarded: "for=203.0.113.7",
  connection: "x-evil",
  "x-evil": "client-secret",
  "proxy-authorization": "Basic client-secret",
  "accept-encoding": "gzip",
  "x-api-key": "client-secret",
  "api-key": "client-secret",
  "x-goog-api-key": "client-secret",
  "anthropic-version": "client-version",
  "x-amz-security-token": "client-secret",
  "cf-consn-model-id": "client-model",
  "user-agent": "client/1.0",
  te: "trailers",
};

/** How one asks for what a capability is about. */
const ASKS = {
  prompt_array: { prompt: ["a", "b"] },
  prompt_tokens: { prompt: [1, 2] },
  best_of: { best_of: 2 },
  echo: { echo: true },
  frequency_penalty: { frequency_penalty: 0.5 },
  presence_penalty: { presence_penalty: 0.5 },
  logit_bias: { logit_bias: { 5: 1 } },
  logprobs: { logprobs: 1 },
  max_tokens: { max_tokens: 9 },
  max_tokens_zero: { max_tokens: 0 },
  n: { n: 2 },
  seed: { seed: 5 },
  stop: { stop: ["END"] },
  suffix: { suffix: "after" },
  temperature: { temperature: 0.5 },
  top_p: { top_p: 0.25 },
  user: { user: "u-1" },
};

const SOON_MS = 1000;
const MAX_EVENT_BYTES = 64 << 10;

const OF_THE_GATEWAY = {
  secrets: { AWS_KEYS: `${AWS_KEYS.id}:${AWS_KEYS.secret}` },
  ai: {},
  configure: (config) => ({ ...config, limits: { max_event_bytes: MAX_EVENT_BYTES } }),
};

const REDIRECTS = [301, 302, 307, 308];

/** Bytes of text, or of a binary framing. */
const bytesOf = (...parts) => Buffer.concat(parts.map((part) => Buffer.from(part)));
const wholeStream = ({ open, text, end }) => bytesOf(open, ...PIECES.map(text), end);
const alive = ({ open, text, end, keepalive = ": keepalive\n\n" }) =>
  bytesOf(keepalive, open, keepalive, ...PIECES.flatMap((piece) => [text(piece), keepalive]), end);
const begun = ({ open, text }) => bytesOf(open, text(PIECES[0]));

// name → what a row's upstream does. Each is a model of its own: `<row>: <name>`.
const SCRIPTS = {
  whole: (row) => answer(200, row.whole(HAIKU)),
  "bytes one at a time": (row) => bytewise(wholeStream(row), row.type),
  "odd pieces": (row) => oddPieces(wholeStream(row), row.type),
  limited: ({ limited: [status, body, headers] }) => answer(status, body, headers),
  refused: ({ refused: [status, body] }) => answer(status, body),
  "fails amid the stream": (row) => stream(bytesOf(begun(row), row.fails), row.type),
  truncated: (row) => stream(begun(row), row.type),
  keepalives: (row) => stream(alive(row), row.type),
  "an endless event": (row) => pieces([begun(row), row.endless ?? "data: ", talkUntilGone("x".repeat(1024))], row.type),
  lingers: (row) => pieces([wholeStream(row), (exchange) => exchange.closed], row.type),
  capabilities: (row) => answer(200, row.whole(HAIKU)),
  headers: (row) => (exchange) => (exchange.request.header("accept") === row.type ? SCRIPTS["odd pieces"] : SCRIPTS.whole)(row)(exchange),
};

// name → [the job, what every SDK must give for it].
const STREAM = { stream: true, params: { ...PARAMS, stream_options: { include_usage: true } } };
const JOBS = {
  whole: [{ stream: false, params: PARAMS }, () => ({ text: HAIKU, finish_reason: "stop", usage: USAGE })],
  // Where its bytes were cut is nothing that could be seen behind the Worker: the other SDKs have the odd pieces.
  "bytes one at a time": [{ ...STREAM, only: "openai-node" }, () => ({ text: HAIKU, delta_text: HAIKU, finish_reason: "stop", usage: USAGE })],
  "odd pieces": [{ stream: true }, () => ({ text: HAIKU, finish_reason: "stop", usage: null })],
  keepalives: [STREAM, () => ({ text: HAIKU, finish_reason: "stop", usage: USAGE })],
  limited: [{ stream: false }, () => ({ error: { class: "RateLimitError", status: 429, type: "requests", code: "upstream_rate_limited" } })],
  refused: [
    { stream: true },
    ({ refused: [status, , message, param = null] }) => ({
      error: { class: status === 422 ? "UnprocessableEntityError" : "BadRequestError", status, type: "invalid_request_error", param, message },
    }),
  ],
  "fails amid the stream": [
    STREAM,
    ({ failsWith = "upstream_error" }) => ({ text: PIECES[0], finish_reason: null, usage: null, error: { class: "APIError", code: failsWith } }),
  ],
  truncated: [STREAM, () => ({ text: PIECES[0], finish_reason: null, usage: null, error: { class: "APIError", code: "upstream_incomplete" } })],
};

const jobsFor = (sdk) => Object.entries(JOBS).filter(([, [{ only = sdk }]]) => only === sdk);
const rows = Object.entries(DIALECTS);
const modelName = (row, what) => `${row}: ${what}`;

suite("dialects", () => {
  let gateway, elsewhere, results;
  const gates = Object.fromEntries(rows.map(([row]) => [row, latch()]));

  before(async () => {
    elsewhere = await startWireUpstream({});
    const scripts = {};
    for (const [name, row] of rows) {
      for (const [what, script] of Object.entries(SCRIPTS)) {
        scripts[modelName(name, what)] = modelOf(row, script(row), what === "headers" ? { model: { headers: OPERATORS } } : {});
      }
      for (const status of REDIRECTS) {
        const location = { Location: `${elsewhere.origin}/v1/elsewhere` };
        scripts[modelName(name, status)] = modelOf(row, answer(status, "", location));
      }
      const rest = bytesOf(...PIECES.slice(1).map(row.text), row.end);
      scripts[modelName(name, "stalls")] = modelOf(row, pieces([begun(row), () => gates[name].opened, rest], row.type));
    }
    const fixture = readFileSync(join(FIXTURES, "bedrock/stream-usage/upstream.eventstream"));
    scripts["a recording of Bedrock"] = modelOf(DIALECTS.bedrock, bytewise(fixture, DIALECTS.bedrock.type));
    gateway = await startGateway({ scripts, ...OF_THE_GATEWAY });

    const jobsOf = (sdk) => rows.flatMap(([name]) =>
      jobsFor(sdk).map(([what, [{ only, ...job }]]) => ({ name: modelName(name, what), model: modelName(name, what), library: "openai", ...job })),
    );
    const settings = { base_url: gateway.baseURL, api_key: gateway.key };
    const run = async ([sdk, run]) => [sdk, run && (await run({ ...settings, jobs: jobsOf(sdk) }))];
    results = Object.fromEntries(await Promise.all(Object.entries(SDKS).map(run)));
  });
  after(async () => {
    try {
      await gateway?.stop();
    } finally {
      await elsewhere?.stop();
    }
  });

  const call = (model, more = {}, options) => gateway.complete({ model, prompt: PROMPT, ...more }, options);

  test("every dialect has a row here", () => {
    const source = readFileSync(join(import.meta.dirname, "../../src/dialect/mod.rs"), "utf8");
    const [, table] = source.match(/^dialects! \{\n(.*?)^\}/ms);
    const names = [...table.matchAll(/^ *\w+, "([^"]+)" =>/gm)].map(([, name]) => name);
    assert.ok(names.length >= 13, `only these names were found: ${names}`);
    assert.deepEqual([...new Set(rows.map(([, { dialect }]) => dialect))].sort(), names.sort());
  });

  for (const [sdk, run] of Object.entries(SDKS)) {
    suite(sdk, { skip: run ? false : "not set up: tests/e2e/run does that" }, () => {
      for (const [name, row] of rows) {
        for (const [what, [, expected]] of jobsFor(sdk)) {
          const pitfall = { truncated: "pitfall 41: ", "fails amid the stream": "pitfall 25: ", "bytes one at a time": "pitfall 16: ", keepalives: "pitfall 28: " }[what] ?? "";
          test(`${pitfall}${name}, ${what}`, () => {
            const wanted = expected(row);
            // Go has one class for all.
            if (wanted.error && sdk === "openai-go") wanted.error.class = wanted.error.status ? "Error" : "StreamError";
            assert.deepEqual(pick(results[sdk][modelName(name, what)], wanted), wanted);
          });
        }
      }
    });
  }

  for (const [name, row] of rows) {
    for (const [what, streaming] of [["whole", false], ["bytes one at a time", true]]) {
      test(`pitfall 37: ${name}: method, path, credentials and body (${what})`, async () => {
        const request = await gateway.upstream.requestFor(modelName(name, what));
        assert.equal(request.method, "POST");
        assert.equal(request.path, row.path(streaming));
        for (const [header, value] of Object.entries(row.auth(request))) assert.equal(request.header(header), value);
        assert.equal(request.header("accept"), streaming ? row.type : "application/json");
        assert.deepEqual(request.json, { ...row.sent(streaming), ...(row.namesModel && { model: ODD_MODEL }) });
      });

      test(`pitfall 38: ${name}: the headers are the dialect's, the operator's and the runtime's, and no others (${what})`, async () => {
        const model = modelName(name, "headers");
        const before = gateway.upstream.requestsFor(model).length;
        const response = await call(model, { stream: streaming }, { headers: SMUGGLED });
        assert.equal(response.status, 200, await response.text());
        const request = await gateway.upstream.requestFor(model, before + 1);
        const expected = { ...OPERATORS, ...row.own, ...row.auth(request) };
        const names = request.headers.map(([header]) => header.toLowerCase()).sort();
        assert.deepEqual(names, [...Object.keys(expected), ...OF_EVERY_CALL, ...ofTheRuntime(row)].sort());
        for (const [header, value] of Object.entries(expected)) {
          if (value instanceof RegExp) assert.match(request.header(header), value);
          else assert.equal(request.header(header), value);
        }
        assert.equal(request.header("accept-encoding"), "identity");
        assert.equal(request.header("host"), row.byBinding ? "workers-binding.ai" : `127.0.0.1:${gateway.upstream.port}`);
        for (const [header, value] of request.headers) {
          for (const theirs of ["client", "203.0.113.7", gateway.key]) assert.ok(!value.includes(theirs), `${header}: ${value}`);
        }
      });
    }

    test(`${name}: an upstream at its limit says when, and nothing of itself`, async () => {
      const response = await call(modelName(name, "limited"));
      const text = await response.text();
      assert.equal(response.status, 429, text);
      assert.equal(response.headers["retry-after"], String(row.limited[3]));
      assert.ok(!text.includes(INTERNAL), text);
    });

    test(`pitfalls 25 and 41: ${name}: a stream that is cut or fails ends in one error, and no finish reason is made up`, async () => {
      for (const what of ["truncated", "fails amid the stream"]) {
        const response = await call(modelName(name, what), { stream: true });
        const text = await response.text();
        assert.equal(response.status, 200, text);
        const [chunks] = splitAtError(text);
        assert.deepEqual(choicesOf(chunks), { 0: { text: PIECES[0], finish_reason: null } });
        assert.ok(!text.includes(INTERNAL), text);
      }
    });

    test(`pitfall 24: ${name}: the first chunk does not wait for the second`, async () => {
      const response = await call(modelName(name, "stalls"), { stream: true });
      try {
        await response.contains(PIECES[0]);
      } finally {
        gates[name].open();
      }
      const chunks = chunksOf(await response.text());
      assert.deepEqual(choicesOf(chunks), { 0: { text: HAIKU, finish_reason: "stop" } });
    });

    test(`pitfall 21: ${name}: a whole answer in the place of a stream is one, and a stream in the place of a whole answer is none`, async () => {
      const replayed = await call(modelName(name, "whole"), { stream: true });
      assert.deepEqual(choicesOf(chunksOf(await replayed.text())), { 0: { text: HAIKU, finish_reason: "stop" } });
      const refused = await call(modelName(name, "odd pieces"));
      assert.deepEqual([refused.status, (await refused.json()).error.code], [502, "upstream_error"]);
    });

    test(`pitfall 22: ${name}: an event without an end is one error, and the upstream is let go`, async () => {
      const response = await call(modelName(name, "an endless event"), { stream: true });
      const [chunks, error] = splitAtError(await response.text());
      assert.deepEqual(choicesOf(chunks), { 0: { text: PIECES[0], finish_reason: null } });
      assert.equal(error.code, "upstream_error");
      const request = await gateway.upstream.requestFor(modelName(name, "an endless event"));
      await request.connectionClosed("the endless upstream's connection to be closed", SOON_MS);
    });

    test(`pitfall 40: ${name}: what a parameter asks for is refused, or done, and never forgotten`, async () => {
      const model = modelName(name, "capabilities");
      const { capabilities } = await (await gateway.get(`/v1/models/${encodeURIComponent(model)}`)).json();
      const sent = () => gateway.upstream.requestsFor(model);
      await (await call(model)).bytes();
      const [plain] = sent();
      for (const [capability, asks] of Object.entries(ASKS)) {
        const before = sent().length;
        const response = await call(model, asks);
        const body = await response.json();
        const calls = sent().slice(before);
        if (capabilities[capability] === "unsupported") {
          const [param] = Object.keys(asks);
          assert.deepEqual([response.status, body.error?.code, body.error?.param], [400, "unsupported_parameter", param], capability);
          assert.deepEqual(calls, []);
        } else if (capabilities[capability] === "native") {
          // An upstream that got the same as without the parameter was not told of it.
          assert.equal(calls.length, 1, capability);
          assert.notDeepEqual(calls[0].json, plain.json, capability);
        } else {
          assert.equal(capabilities[capability], "emulated");
          const twice = capability === "n" || capability === "prompt_array";
          assert.equal(calls.length, twice ? 2 : 1, capability);
          if (twice) assert.deepEqual(body.choices.map(({ index }) => index), [0, 1]);
          if (capability === "echo") assert.equal(body.choices[0].text, PROMPT + HAIKU);
        }
      }
    });

    test(`pitfall 38: ${name}: no redirect is followed`, async () => {
      for (const status of REDIRECTS) {
        for (const streaming of [false, true]) {
          const response = await call(modelName(name, status), { stream: streaming });
          const { error } = await response.json();
          assert.deepEqual([response.status, error.type, error.code], [502, "api_error", "upstream_error"], `${status}`);
        }
      }
      assert.deepEqual(elsewhere.requests, []);
    });
  }

  test("a stream is over when its upstream says so, though the connection stays open", async () => {
    // All at once: a connection has a second's time to be of use again.
    await Promise.all(rows.map(async ([name, { endsWithItsConnection }]) => {
      const model = modelName(name, "lingers");
      const response = await call(model, { stream: true });
      const request = await gateway.upstream.requestFor(model);
      if (endsWithItsConnection) {
        // More text may follow until the connection ends, and so the choice has not finished.
        await response.contains(PIECES.at(-1));
        response.hangUp();
      } else {
        assert.deepEqual(choicesOf(chunksOf(await response.text())), { 0: { text: HAIKU, finish_reason: "stop" } }, name);
      }
      await request.connectionClosed(`the lingering upstream's connection to be closed (${name})`, 3 * SOON_MS);
    }));
  });

  test("a recording of Bedrock, bytes one at a time", async () => {
    const response = await call("a recording of Bedrock", { stream: true, stream_options: { include_usage: true } });
    const chunks = chunksOf(await response.text());
    assert.deepEqual(choicesOf(chunks), { 0: { text: "Hello é", finish_reason: "stop" } });
    assert.deepEqual(chunks.at(-1).usage, { prompt_tokens: 8, completion_tokens: 3, total_tokens: 11 });
  });
});

/** What is expected of a result; a key that is absent, or empty as Go has it, counts as null. */
function pick(result, expected) {
  assert.ok(result, "the SDK raised no error, against what was expected");
  return Object.fromEntries(
    Object.entries(expected).map(([key, value]) => {
      if (key === "error") return [key, pick(result.error, value)];
      return [key, result[key] === "" ? null : (result[key] ?? null)];
    }),
  );
}
