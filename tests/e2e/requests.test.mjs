// What a request may be: body, parameters, path, method, content type, CORS. Refusals word for word where the
// API's own wording is known.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { startGateway } from "./harness/gateway.mjs";
import { send } from "./harness/http_client.mjs";
import { answer, chatCompletion, completion } from "./harness/scripts.mjs";
import { assertErrorShape } from "./harness/sse.mjs";

const MAX_BODY_BYTES = 8192;
const BIG = JSON.stringify({ model: "demo", prompt: "x".repeat(4 * MAX_BODY_BYTES) });
const body = (more) => ({ model: "demo", prompt: "p", ...more });
const range = (name, kind, sign, bound, got) =>
  `Invalid '${name}': ${kind} ${sign === ">=" ? "below minimum" : "above maximum"} value. Expected a value ${sign} ${bound}, but got ${got} instead.`;
const type = (name, expected, got) => `Invalid type for '${name}': expected ${expected}, but got ${got} instead.`;

// name → [body, param, code, message]: all 400 invalid_request_error.
const BAD_BODIES = {
  "not JSON": ["{model:", null, null, /^We could not parse the JSON body of your request\./],
  "empty": ["", null, null, /^We could not parse the JSON body of your request\./],
  "not UTF-8": [Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), null, null, /JSON/],
  "trailing garbage": ['{"model":"demo","prompt":"p"} x', null, null, /JSON/],
  "no model": [{ prompt: "p" }, null, null, "you must provide a model parameter"],
  "model of another type": [body({ model: 5 }), "model", "invalid_type", type("model", "a string", "an integer")],
  "no prompt": [{ model: "demo" }, "prompt", undefined, /prompt/],
  "prompt null": [body({ prompt: null }), "prompt", undefined, /prompt/],
  "prompt a number": [body({ prompt: 5 }), "prompt", "invalid_type", /^Invalid type for 'prompt'/],
  "prompt an empty array": [body({ prompt: [] }), "prompt", "array_below_min_length", /^Invalid 'prompt': array too short\./],
  "prompt with an empty inner array": [body({ prompt: [[1], []] }), "prompt", "array_below_min_length", /array too short/],
  "prompt of mixed kinds": [body({ prompt: ["a", 1] }), "prompt", "invalid_type", /^Invalid type for 'prompt/],
  "max_tokens a string": [body({ max_tokens: "64" }), "max_tokens", "invalid_type", type("max_tokens", "an integer", "a string")],
  "max_tokens a fraction": [body({ max_tokens: 1.5 }), "max_tokens", "invalid_type", /^Invalid type for 'max_tokens': expected an integer/],
  "max_tokens below": [body({ max_tokens: -1 }), "max_tokens", "integer_below_min_value", range("max_tokens", "integer", ">=", 0, -1)],
  "n below": [body({ n: 0 }), "n", "integer_below_min_value", range("n", "integer", ">=", 1, 0)],
  "n above": [body({ n: 129 }), "n", "integer_above_max_value", range("n", "integer", "<=", 128, 129)],
  "best_of above": [body({ best_of: 21 }), "best_of", "integer_above_max_value", range("best_of", "integer", "<=", 20, 21)],
  "logprobs above": [body({ logprobs: 6 }), "logprobs", "integer_above_max_value", range("logprobs", "integer", "<=", 5, 6)],
  "temperature above": [body({ temperature: 200 }), "temperature", "decimal_above_max_value", range("temperature", "decimal", "<=", 2, 200)],
  "temperature below": [body({ temperature: -1 }), "temperature", "decimal_below_min_value", range("temperature", "decimal", ">=", 0, -1)],
  "top_p above": [body({ top_p: 1.5 }), "top_p", "decimal_above_max_value", range("top_p", "decimal", "<=", 1, 1.5)],
  "frequency_penalty below": [body({ frequency_penalty: -3 }), "frequency_penalty", "decimal_below_min_value", range("frequency_penalty", "decimal", ">=", -2, -3)],
  "presence_penalty a string": [body({ presence_penalty: "1" }), "presence_penalty", "invalid_type", /^Invalid type for 'presence_penalty'/],
  "echo a string": [body({ echo: "yes" }), "echo", "invalid_type", /^Invalid type for 'echo'/],
  "stream a number": [body({ stream: 1 }), "stream", "invalid_type", /^Invalid type for 'stream'/],
  "stop too long": [
    body({ stop: Array(9).fill("x") }), "stop", "array_above_max_length",
    "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length 9 instead.",
  ],
  "stop empty": [body({ stop: [] }), "stop", "array_below_min_length", /^Invalid 'stop': array too short\./],
  "stop of numbers": [body({ stop: [1] }), "stop", "invalid_type", /^Invalid type for 'stop/],
  "suffix a number": [body({ suffix: 1 }), "suffix", "invalid_type", /^Invalid type for 'suffix'/],
  "seed a string": [body({ seed: "1" }), "seed", "invalid_type", /^Invalid type for 'seed'/],
  "user a number": [body({ user: 1 }), "user", "invalid_type", /^Invalid type for 'user'/],
  "logit_bias an array": [body({ logit_bias: [] }), "logit_bias", "invalid_type", /^Invalid type for 'logit_bias'/],
  "logit_bias above": [body({ logit_bias: { 5: 101 } }), "logit_bias", undefined, /above maximum value/],
  "stream_options without stream": [
    body({ stream_options: { include_usage: true } }), "stream_options", null,
    "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
  ],
  "best_of below n": [
    body({ n: 5, best_of: 4 }), undefined, null,
    "You requested that the server return more choices than it will generate (HINT: you must set 'n' (currently 5) to be at most 'best_of' (currently 4), or omit either parameter if you don't specifically want to use them.)",
  ],
  "best_of with stream": [body({ best_of: 2, stream: true }), "best_of", undefined, /best_of/],
};

const NULLS = [
  "best_of", "echo", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "max_tokens", "n", "seed",
  "stop", "stream", "stream_options", "suffix", "temperature", "top_p",
];

// [method, path, status, code, Allow]
const ROUTES = [
  ["POST", "/v1/foo", 404, "unknown_url"],
  ["GET", "/", 404, "unknown_url"],
  ["POST", "/v1/completions/", 404, "unknown_url"],
  ["POST", "/v1/chat/completions", 404, "unknown_url"],
  ["POST", "/V1/completions", 404, "unknown_url"],
  ["GET", "/v1/completions", 405, "method_not_supported", /\bPOST\b/],
  ["PUT", "/v1/completions", 405, "method_not_supported", /\bPOST\b/],
  ["DELETE", "/v1/completions", 405, "method_not_supported", /\bPOST\b/],
  ["POST", "/v1/models", 405, "method_not_supported", /\bGET\b/],
  ["DELETE", "/v1/models/demo", 405, "method_not_supported", /\bGET\b/],
  ["POST", "/healthz", 405, "method_not_supported", /\bGET\b/],
];

suite("requests", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: {
        demo: answer(200, completion("ok")),
        chat: { script: answer(200, chatCompletion("ok")), dialect: "openai-chat" },
      },
      configure: (config) => ({ ...config, limits: { max_body_bytes: MAX_BODY_BYTES } }),
    });
  });
  after(() => gateway?.stop());

  async function refused(response, status, param, code, message) {
    const text = await response.text();
    assert.equal(response.status, status, text);
    assert.match(response.headers["content-type"], /^application\/json/);
    assert.ok(response.headers["x-request-id"]);
    const { error } = JSON.parse(text);
    assertErrorShape(error);
    assert.equal(error.type, "invalid_request_error");
    if (param !== undefined) assert.equal(error.param, param);
    if (code !== undefined) assert.equal(error.code, code);
    if (typeof message === "string") assert.equal(error.message, message);
    else if (message) assert.match(error.message, message);
  }
  const post = (body, headers = {}) =>
    send(gateway.port, {
      method: "POST",
      path: "/v1/completions",
      headers: { authorization: `Bearer ${gateway.key}`, "content-type": "application/json", ...headers },
      body,
    });

  for (const [name, [body, param, code, message]] of Object.entries(BAD_BODIES)) {
    test(`400: ${name}`, async () => {
      const bytes = typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body);
      await refused(await post(bytes), 400, param, code, message);
    });
  }

  test("a value nested ever so deeply breaks nothing", async () => {
    const response = await post(`{"model":"demo","prompt":"p","x":${"[".repeat(3000)}${"]".repeat(3000)}}`);
    assert.ok([200, 400].includes(response.status), await response.text());
    assert.equal((await gateway.complete(body())).status, 200, "the isolate lives on");
  });

  for (const name of NULLS) {
    test(`${name} may be null`, async () => {
      const response = await gateway.complete(body({ [name]: null }));
      assert.equal(response.status, 200, await response.text());
    });
  }

  for (const [method, path, status, code, allow] of ROUTES) {
    test(`${status}: ${method} ${path}`, async () => {
      const response = await send(gateway.port, { method, path, headers: { authorization: `Bearer ${gateway.key}` } });
      await refused(response, status, null, code, status === 404 ? `Invalid URL (${method} ${path})` : /./);
      if (allow) assert.match(response.headers.allow, allow);
    });
  }

  test("413 by content-length", async () => refused(await post(BIG), 413, null, "request_too_large"));

  test("413 by a chunked upload without a length", async () => {
    const pieces = Array.from({ length: 8 }, (_, i) => BIG.slice((i * BIG.length) / 8, ((i + 1) * BIG.length) / 8));
    await refused(await post(pieces), 413, null, "request_too_large");
  });

  test("a chunked upload within the limit is as good as any", async () => {
    const text = JSON.stringify(body());
    const response = await post([text.slice(0, 7), text.slice(7)]);
    assert.equal(response.status, 200, await response.text());
  });

  const CONTENT_TYPES = {
    "text/plain": 415,
    "application/x-www-form-urlencoded": 415,
    "multipart/form-data; boundary=x": 415,
    "application/jsonp": 415,
    "application/json": 200,
    "application/json; charset=utf-8": 200,
    "Application/JSON": 200,
  };
  for (const [type, status] of Object.entries(CONTENT_TYPES)) {
    test(`${status}: content type ${type}`, async () => {
      const response = await post(JSON.stringify(body()), { "content-type": type });
      if (status === 200) assert.equal(response.status, 200, await response.text());
      else await refused(response, status, null, "unsupported_media_type");
    });
  }

  test("a query string changes nothing", async () => {
    const response = await gateway.complete(body(), { path: "/v1/completions?api-version=1" });
    assert.equal(response.status, 200, await response.text());
  });

  for (const [name, more] of Object.entries({ suffix: { suffix: "x" }, "best_of > n": { best_of: 2 }, "token prompt": { prompt: [1, 2] } })) {
    test(`chat cannot: ${name}`, async () => {
      const param = name === "token prompt" ? "prompt" : Object.keys(more)[0];
      await refused(await gateway.complete({ ...body(more), model: "chat" }), 400, param, "unsupported_parameter");
    });
  }

  test("an unknown parameter is refused where the dialect cannot carry it", async () => {
    const response = await gateway.complete(body({ model: "chat", top_k: 5 }));
    await refused(response, 400, undefined, undefined, "Unrecognized request argument supplied: top_k");
    assert.equal(gateway.upstream.requestsFor("chat").filter((request) => request.json.top_k).length, 0);
  });

  test("CORS is off unless configured", async () => {
    const preflight = await send(gateway.port, {
      method: "OPTIONS",
      path: "/v1/completions",
      headers: { origin: "https://app.example", "access-control-request-method": "POST" },
    });
    assert.equal(preflight.headers["access-control-allow-origin"], undefined);
    await refused(preflight, 405, null, "method_not_supported");
    const response = await gateway.complete(body(), { headers: { origin: "https://app.example" } });
    assert.equal(response.status, 200);
    assert.equal(response.headers["access-control-allow-origin"], undefined);
  });
});

suite("CORS, configured", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: { demo: answer(200, completion("ok")) },
      configure: (config) => ({ ...config, cors: { origins: ["https://app.example"] } }),
    });
  });
  after(() => gateway?.stop());

  const preflight = (origin) =>
    send(gateway.port, {
      method: "OPTIONS",
      path: "/v1/completions",
      headers: { origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type" },
    });

  test("a preflight from a configured origin", async () => {
    const response = await preflight("https://app.example");
    assert.ok([200, 204].includes(response.status), String(response.status));
    assert.equal(response.headers["access-control-allow-origin"], "https://app.example");
    assert.match(response.headers["access-control-allow-methods"], /\bPOST\b/);
    for (const name of ["authorization", "content-type"]) {
      assert.match(response.headers["access-control-allow-headers"].toLowerCase(), new RegExp(name));
    }
  });

  test("a preflight from another origin", async () => {
    assert.equal((await preflight("https://evil.example")).headers["access-control-allow-origin"], undefined);
  });

  test("answers and errors carry the origin too", async () => {
    for (const model of ["demo", "unknown"]) {
      const response = await gateway.complete(body({ model }), { headers: { origin: "https://app.example" } });
      assert.equal(response.headers["access-control-allow-origin"], "https://app.example", model);
      assert.match(response.headers["access-control-expose-headers"], /x-request-id/i);
    }
  });
});
