// How an upstream of each dialect is called, and how it answers: what every dialect's tests are made of. The answers are
// written after the providers' documentation, not after what the Worker reads.
import { createHash, createHmac } from "node:crypto";
import { crc32 } from "node:zlib";
import { UPSTREAM_KEY } from "./gateway.mjs";
import { chatChunk, chatCompletion, completion, events, textChunk, USAGE } from "./scripts.mjs";

/** What the tests ask for. Every dialect has a word for each of these. */
export const PROMPT = "Write a haiku about dawn";
export const PARAMS = { max_tokens: 5, temperature: 0.5, top_p: 0.25, stop: ["END"] };

/** A name that would be several things in a path. */
export const ODD_MODEL = "org/m:1?x=%2e%2e#é y";
const ODD_SEGMENT = "org%2Fm%3A1%3Fx%3D%252e%252e%23%C3%A9%20y";

/** AWS's own example keys. */
export const AWS_KEYS = { id: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" };

/** What an upstream says of itself, and no client may read. */
export const INTERNAL = "gpu-7.internal of acct_4711";

const SSE = "text/event-stream";
const BEARER = { authorization: `Bearer ${UPSTREAM_KEY}` };
const openAiError = (message, more = {}) => ({ error: { message, type: "server_error", param: null, code: null, ...more } });

/** An SSE event with its name. */
const named = (event, data) => `event: ${event}\n${events(data)}`;
const anthropicEvent = (type, more = {}) => named(type, { type, ...more });
const cohereEvent = (type, delta) => named(type, { type, ...(delta && { delta }) });
const geminiEvent = (candidate, counts) =>
  events({ candidates: [{ index: 0, ...candidate }], usageMetadata: { promptTokenCount: USAGE.prompt_tokens, ...counts } }).replaceAll("\n", "\r\n");
const geminiContent = (text) => ({ content: { role: "model", parts: [{ text }] } });
const line = (json) => `${JSON.stringify({ model: "m", created_at: "2026-01-01T00:00:00Z", ...json })}\n`;

/** A message of `application/vnd.amazon.eventstream`: lengths and checksums around headers, all of them strings, and JSON. */
export function awsMessage(headers, json) {
  const text = (length, value) => Buffer.concat([length, Buffer.from(value)]);
  const short = (value) => Buffer.from([value.length >> 8, value.length & 255]);
  const head = Buffer.concat(
    Object.entries(headers).map(([name, value]) =>
      Buffer.concat([text(Buffer.from([name.length]), name), Buffer.from([7]), text(short(value), value)]),
    ),
  );
  const payload = Buffer.from(JSON.stringify(json));
  const body = Buffer.concat([awsPrelude(head.length + payload.length + 16, head.length), head, payload]);
  return Buffer.concat([body, u32(crc32(body))]);
}
function awsPrelude(length, headersLength) {
  const lengths = Buffer.concat([u32(length), u32(headersLength)]);
  return Buffer.concat([lengths, u32(crc32(lengths))]);
}
function u32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
const awsEvent = (type, json) =>
  awsMessage({ ":event-type": type, ":content-type": "application/json", ":message-type": "event" }, json);
const awsException = (type, json) =>
  awsMessage({ ":exception-type": type, ":content-type": "application/json", ":message-type": "exception" }, json);

/** OpenAI's family: the same answers wherever the route is. */
const OPENAI_COMPLETIONS = {
  type: SSE,
  sent: (streaming) => ({ prompt: PROMPT, ...PARAMS, ...(streaming && { stream: true, stream_options: { include_usage: true } }) }),
  whole: completion,
  open: "",
  text: (text) => events(textChunk(text)),
  end: events(textChunk("", "stop"), { choices: [], usage: USAGE }, "[DONE]"),
  fails: events(openAiError(INTERNAL)),
  limited: [429, openAiError(INTERNAL, { type: "requests" }), { "Retry-After": "7" }, 7],
  refused: [400, openAiError("Too long.", { type: "invalid_request_error", param: "prompt" }), "Too long.", "prompt"],
};
const OPENAI_CHAT = {
  ...OPENAI_COMPLETIONS,
  sent: (streaming) => {
    const { prompt, ...rest } = OPENAI_COMPLETIONS.sent(streaming);
    return { messages: [{ role: "user", content: prompt }], ...rest };
  },
  whole: chatCompletion,
  open: events(chatChunk({ role: "assistant", content: "" })),
  text: (content) => events(chatChunk({ content })),
  end: events(chatChunk({}, "stop"), { choices: [], usage: USAGE }, "[DONE]"),
};
const AZURE = {
  base: "/openai/deployments",
  upstream: { api_version: "2024-10-21" },
  auth: () => ({ "api-key": UPSTREAM_KEY }),
  limited: [429, { error: { code: "429", message: INTERNAL } }, { "Retry-After": "6" }, 6],
  refused: [
    400,
    { error: { message: "Filtered.", type: null, param: "prompt", code: "content_filter", status: 400, innererror: { code: "ResponsibleAIPolicyViolation" } } },
    "Filtered.",
    "prompt",
  ],
};
const AZURE_FIRST = events({ id: "", object: "", created: 0, model: "", choices: [], prompt_filter_results: [{ prompt_index: 0, content_filter_results: {} }] });

const WORKERS_AI = {
  dialect: "workers-ai",
  type: SSE,
  sent: (streaming) => {
    // The gateway looks for stop sequences itself.
    const { stop, ...rest } = PARAMS;
    return { prompt: PROMPT, raw: true, ...rest, ...(streaming && { stream: true }) };
  },
  open: "",
  text: (response) => events({ response, p: "abcdefgh" }),
  end: events({ response: "", usage: USAGE }, "[DONE]"),
  fails: events({ errors: [{ code: 3007, message: INTERNAL }], success: false }, "[DONE]"),
  failsWith: "upstream_timeout",
};

const BEDROCK = {
  dialect: "bedrock",
  base: "",
  path: (streaming) => `/model/${ODD_SEGMENT}/${streaming ? "converse-stream" : "converse"}`,
  type: "application/vnd.amazon.eventstream",
  keepalive: awsEvent("initial-response", {}),
  // A message that says of itself that it is a gigabyte long. Its checksum is right.
  endless: awsPrelude(1 << 30, 0),
  auth: () => BEARER,
  sent: () => ({
    messages: [{ role: "user", content: [{ text: PROMPT }] }],
    inferenceConfig: { maxTokens: 5, temperature: 0.5, topP: 0.25, stopSequences: ["END"] },
  }),
  whole: (text) => ({
    output: { message: { role: "assistant", content: [{ text }] } },
    stopReason: "end_turn",
    usage: { inputTokens: 7, outputTokens: 2, totalTokens: 9 },
    metrics: { latencyMs: 1 },
  }),
  open: awsEvent("messageStart", { role: "assistant", p: "abc" }),
  text: (text) => awsEvent("contentBlockDelta", { contentBlockIndex: 0, delta: { text }, p: "abcdef" }),
  end: Buffer.concat([
    awsEvent("contentBlockStop", { contentBlockIndex: 0 }),
    awsEvent("messageStop", { stopReason: "end_turn" }),
    awsEvent("metadata", { metrics: { latencyMs: 1 }, usage: { inputTokens: 7, outputTokens: 2, totalTokens: 9 } }),
  ]),
  fails: awsException("modelStreamErrorException", { message: INTERNAL, originalStatusCode: 500 }),
  limited: [429, { message: INTERNAL }, { "x-amzn-ErrorType": "ThrottlingException" }, 1],
  refused: [400, { message: "Malformed input request." }, "Malformed input request."],
};

/**
 * name → how it speaks. Several rows may be of one dialect, and every dialect has one:
 * - `base`, `upstream`, `path`: the configuration, and the path that must come out for `ODD_MODEL`;
 * - `auth`, `own`: the headers that it is called with, besides those of every call; `auth` is given the request;
 * - `sent`: the body of a call that asks for `PROMPT` and `PARAMS`, and `namesModel` if the model stands in it;
 * - `whole`; `type`, `open`, `text`, `end`: its answers, each with `USAGE` and a natural end;
 * - `keepalive` and `endless`: what keeps a stream alive, and how an event without an end begins, where that is not SSE's;
 * - `endsWithItsConnection`, if nothing else marks the end of its streams;
 * - `fails` and `failsWith`: an error amid a stream, and the code that a client gets for it;
 * - `limited`: status, body, headers, and the seconds that the client must be told to wait;
 * - `refused`: status, body, and the message and parameter that the client must be told.
 */
export const DIALECTS = {
  "openai-completions": {
    ...OPENAI_COMPLETIONS,
    dialect: "openai-completions",
    base: "/v1",
    path: () => "/v1/completions",
    namesModel: true,
    auth: () => BEARER,
  },
  "openai-chat": {
    ...OPENAI_CHAT,
    dialect: "openai-chat",
    base: "/v1",
    path: () => "/v1/chat/completions",
    namesModel: true,
    auth: () => BEARER,
  },
  anthropic: {
    dialect: "anthropic",
    base: "/v1",
    path: () => "/v1/messages",
    namesModel: true,
    auth: () => ({ "x-api-key": UPSTREAM_KEY }),
    own: { "anthropic-version": "2023-06-01" },
    sent: (streaming) => ({
      messages: [{ role: "user", content: PROMPT }],
      max_tokens: 5,
      temperature: 0.5,
      top_p: 0.25,
      stop_sequences: ["END"],
      ...(streaming && { stream: true }),
    }),
    whole: (text) => ({
      id: "msg_1",
      type: "message",
      role: "assistant",
      model: "m",
      content: [{ type: "text", text }],
      stop_reason: "end_turn",
      stop_sequence: null,
      usage: { input_tokens: 7, output_tokens: 2 },
    }),
    type: SSE,
    open:
      anthropicEvent("message_start", { message: { id: "msg_1", type: "message", role: "assistant", content: [], usage: { input_tokens: 7, output_tokens: 1 } } }) +
      anthropicEvent("content_block_start", { index: 0, content_block: { type: "text", text: "" } }) +
      anthropicEvent("ping"),
    text: (text) => anthropicEvent("content_block_delta", { index: 0, delta: { type: "text_delta", text } }),
    end:
      anthropicEvent("content_block_stop", { index: 0 }) +
      anthropicEvent("message_delta", { delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 2 } }) +
      anthropicEvent("message_stop"),
    fails: anthropicEvent("error", { error: { type: "overloaded_error", message: INTERNAL } }),
    limited: [429, { type: "error", error: { type: "rate_limit_error", message: INTERNAL } }, { "Retry-After": "17" }, 17],
    refused: [400, { type: "error", error: { type: "invalid_request_error", message: "No." } }, "No."],
  },
  gemini: {
    dialect: "gemini",
    base: "/v1beta",
    path: (streaming) => `/v1beta/models/${ODD_SEGMENT}:${streaming ? "streamGenerateContent?alt=sse" : "generateContent"}`,
    auth: () => ({ "x-goog-api-key": UPSTREAM_KEY }),
    sent: () => ({
      contents: [{ role: "user", parts: [{ text: PROMPT }] }],
      generationConfig: { maxOutputTokens: 5, temperature: 0.5, topP: 0.25, stopSequences: ["END"] },
    }),
    whole: (text) => ({
      candidates: [{ ...geminiContent(text), finishReason: "STOP", index: 0 }],
      usageMetadata: { promptTokenCount: 7, candidatesTokenCount: 2, totalTokenCount: 9 },
    }),
    type: SSE,
    open: "",
    text: (text) => geminiEvent(geminiContent(text), { candidatesTokenCount: 1 }),
    end: geminiEvent({ ...geminiContent(""), finishReason: "STOP" }, { candidatesTokenCount: 2, totalTokenCount: 9 }),
    fails: events({ error: { code: 503, message: INTERNAL, status: "UNAVAILABLE" } }),
    endsWithItsConnection: true,
    limited: [
      429,
      { error: { code: 429, message: INTERNAL, status: "RESOURCE_EXHAUSTED", details: [{ "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: "34.4s" }] } },
      {},
      35,
    ],
    refused: [400, [{ error: { code: 400, message: "No.", status: "INVALID_ARGUMENT" } }], "No."],
  },
  ollama: {
    dialect: "ollama",
    base: "/api",
    path: () => "/api/generate",
    namesModel: true,
    auth: () => BEARER,
    sent: (streaming) => ({
      prompt: PROMPT,
      raw: true,
      stream: streaming,
      think: false,
      options: { num_predict: 5, temperature: 0.5, top_p: 0.25, stop: ["END"] },
    }),
    whole: (response) => ({ model: "m", response, done: true, done_reason: "stop", prompt_eval_count: 7, eval_count: 2 }),
    type: "application/x-ndjson",
    keepalive: "\n",
    endless: '{"response":"',
    open: "",
    text: (response) => line({ response, done: false }),
    end: line({ response: "", done: true, done_reason: "stop", prompt_eval_count: 7, eval_count: 2 }),
    fails: line({ error: INTERNAL }),
    limited: [429, { error: INTERNAL }, { "Retry-After": "7" }, 7],
    refused: [400, { error: "m does not support insert" }, "m does not support insert"],
  },
  cohere: {
    dialect: "cohere",
    base: "/v2",
    path: () => "/v2/chat",
    namesModel: true,
    auth: () => BEARER,
    sent: (streaming) => ({
      messages: [{ role: "user", content: PROMPT }],
      max_tokens: 5,
      temperature: 0.5,
      p: 0.25,
      stop_sequences: ["END"],
      stream: streaming,
    }),
    whole: (text) => ({
      id: "c1",
      finish_reason: "COMPLETE",
      message: { role: "assistant", content: [{ type: "text", text }] },
      usage: { billed_units: { input_tokens: 5, output_tokens: 2 }, tokens: { input_tokens: 7, output_tokens: 2 } },
    }),
    type: SSE,
    open:
      cohereEvent("message-start", { message: { role: "assistant", content: [] } }) +
      cohereEvent("content-start", { message: { content: { type: "text", text: "" } } }),
    text: (text) => cohereEvent("content-delta", { message: { content: { text } } }),
    end:
      cohereEvent("content-end") +
      cohereEvent("message-end", {
        finish_reason: "COMPLETE",
        usage: { billed_units: { input_tokens: 5, output_tokens: 2 }, tokens: { input_tokens: 7, output_tokens: 2 } },
      }),
    fails: cohereEvent("message-end", { finish_reason: "ERROR", error: INTERNAL }),
    limited: [429, { id: "e1", message: INTERNAL }, {}, 1],
    refused: [400, { id: "e2", message: "too many tokens" }, "too many tokens"],
  },
  "mistral-fim": {
    dialect: "mistral-fim",
    base: "/v1",
    path: () => "/v1/fim/completions",
    namesModel: true,
    auth: () => BEARER,
    sent: (streaming) => ({ prompt: PROMPT, ...PARAMS, ...(streaming && { stream: true }) }),
    whole: chatCompletion,
    type: SSE,
    open: events(chatChunk({ role: "assistant", content: "" })),
    text: (content) => events(chatChunk({ content })),
    end: events({ ...chatChunk({ content: "" }, "stop"), usage: USAGE }, "[DONE]"),
    fails: events({ object: "error", message: INTERNAL, type: "service_tier_capacity_exceeded", param: null, code: "3505" }),
    limited: [429, { object: "error", message: INTERNAL, type: "rate_limited", param: null, code: "1300" }, {}, 1],
    refused: [400, { object: "error", message: "Invalid model", type: "invalid_model", param: null, code: "1500" }, "Invalid model"],
  },
  "llama-cpp": {
    dialect: "llama-cpp",
    base: "",
    path: () => "/completion",
    namesModel: true,
    auth: () => BEARER,
    sent: (streaming) => {
      const { max_tokens: n_predict, ...rest } = PARAMS;
      return { prompt: PROMPT, n_predict, ...rest, ...(streaming && { stream: true }) };
    },
    whole: (content) => ({ index: 0, content, stop: true, stop_type: "eos", tokens_predicted: 2, tokens_evaluated: 7 }),
    type: SSE,
    open: "",
    text: (content) => events({ index: 0, content, tokens: [1], stop: false, id_slot: -1, tokens_predicted: 1, tokens_evaluated: 7 }),
    end: events({ index: 0, content: "", tokens: [], stop: true, stop_type: "eos", tokens_predicted: 2, tokens_evaluated: 7 }),
    fails: `error: ${JSON.stringify({ code: 500, message: INTERNAL, type: "server_error" })}\n\n`,
    limited: [429, openAiError(INTERNAL, { type: "rate_limit_error", code: 429 }), {}, 1],
    refused: [400, openAiError("exceeds the context", { type: "exceed_context_size_error", code: 400 }), "exceeds the context"],
  },
  tgi: {
    dialect: "tgi",
    base: "",
    path: (streaming) => (streaming ? "/generate_stream" : "/generate"),
    auth: () => BEARER,
    sent: () => ({
      inputs: PROMPT,
      parameters: {
        max_new_tokens: 5,
        do_sample: true,
        temperature: 0.5,
        top_p: 0.25,
        stop: ["END"],
        return_full_text: false,
        details: true,
      },
    }),
    whole: (generated_text) => ({
      generated_text,
      details: { finish_reason: "eos_token", generated_tokens: 2, prefill: Array.from({ length: 7 }, (_, id) => ({ id })), tokens: [] },
    }),
    type: SSE,
    open: "",
    text: (text) => `data:${JSON.stringify({ index: 1, token: { id: 1, text, logprob: -0.5, special: false }, generated_text: null, details: null })}\n\n`,
    end: `data:${JSON.stringify({
      index: 2,
      token: { id: 2, text: "</s>", logprob: -0.5, special: true },
      generated_text: "all of it",
      details: { finish_reason: "eos_token", generated_tokens: 2, input_length: 7, seed: null },
    })}\n\n`,
    fails: `data:${JSON.stringify({ error: INTERNAL, error_type: "generation" })}\n\n`,
    limited: [429, { error: INTERNAL, error_type: "overloaded" }, {}, 1],
    refused: [422, { error: "Input validation error", error_type: "validation" }, "Input validation error"],
  },
  bedrock: BEDROCK,
  "bedrock, signed": {
    ...BEDROCK,
    upstream: { region: "us-east-1", key: "AWS_KEYS" },
    auth: (request) => ({ authorization: awsAuthorization(request, "us-east-1") }),
    own: { "x-amz-date": /^\d{8}T\d{6}Z$/ },
  },
  "azure-openai": {
    ...OPENAI_COMPLETIONS,
    ...AZURE,
    dialect: "azure-openai",
    path: () => `/openai/deployments/${ODD_SEGMENT}/completions?api-version=2024-10-21`,
    namesModel: true,
    open: AZURE_FIRST,
  },
  "azure-openai-chat": {
    ...OPENAI_CHAT,
    ...AZURE,
    dialect: "azure-openai-chat",
    path: () => `/openai/deployments/${ODD_SEGMENT}/chat/completions?api-version=2024-10-21`,
    namesModel: true,
    open: AZURE_FIRST + OPENAI_CHAT.open,
  },
  "workers-ai": {
    ...WORKERS_AI,
    base: "/client/v4/accounts/0123456789abcdef/ai",
    // The slashes of a name such as @cf/meta/llama stay.
    path: () => `/client/v4/accounts/0123456789abcdef/ai/run/${ODD_SEGMENT.replace("%2F", "/")}`,
    auth: () => BEARER,
    whole: (response) => ({ result: { response, usage: USAGE }, success: true, errors: [], messages: [] }),
    limited: [429, { result: null, success: false, errors: [{ code: 3036, message: INTERNAL }], messages: [] }, {}, 1],
    refused: [400, { result: {}, success: false, errors: [{ code: 5007, message: "No such model" }], messages: [] }, "No such model"],
  },
  "workers-ai by its binding": {
    ...WORKERS_AI,
    upstream: { base_url: undefined, binding: "AI", key: undefined },
    // What the runtime's own client of Workers AI makes of a call.
    path: () => "/run?version=3",
    sent: (streaming) => ({ inputs: WORKERS_AI.sent(streaming), options: { returnRawResponse: true } }),
    auth: () => ({}),
    // The client of the runtime tells the model here, as it is: the name is the test's own, by which it is recognized.
    own: { "cf-consn-model-id": /./, "cf-consn-sdk-version": "2.0.0" },
    whole: (response) => ({ response, usage: USAGE }),
    limited: [429, { internalCode: 3040, name: "InferenceUpstreamError", message: "x", description: INTERNAL }, {}, 1],
    refused: [400, { internalCode: 5004, name: "InferenceUpstreamError", message: "x", description: "Invalid prompt" }, "Invalid prompt"],
    byBinding: true,
  },
};

/** A model of that row, which answers by `script`. */
export function modelOf(row, script, more = {}) {
  const { dialect, base, upstream, byBinding } = row;
  // The binding's service knows whose script it is by the model's name alone.
  return { script, dialect, base, upstream, target: byBinding ? {} : { model: ODD_MODEL }, ...more };
}

/** The authorization that AWS would work out for a request as it came over the wire (Signature Version 4). */
function awsAuthorization({ method, wholePath, header, body }, region) {
  const stamp = header("x-amz-date");
  const scope = `${stamp.slice(0, 8)}/${region}/bedrock/aws4_request`;
  const signed = header("authorization").match(/SignedHeaders=([^,]+)/)[1];
  const encoded = (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`;
  const canonical = [
    method,
    // What is encoded already is encoded once more, for every service but S3.
    wholePath.replaceAll(/[^A-Za-z0-9\-._~/]/g, encoded),
    "",
    ...signed.split(";").map((name) => `${name}:${header(name)}`),
    "",
    signed,
    sha256(body),
  ].join("\n");
  const toSign = ["AWS4-HMAC-SHA256", stamp, scope, sha256(canonical)].join("\n");
  const key = scope.split("/").reduce((key, part) => hmac(key, part), `AWS4${AWS_KEYS.secret}`);
  return `AWS4-HMAC-SHA256 Credential=${AWS_KEYS.id}/${scope}, SignedHeaders=${signed}, Signature=${hmac(key, toSign).toString("hex")}`;
}

const sha256 = (text) => createHash("sha256").update(text).digest("hex");
const hmac = (key, text) => createHmac("sha256", key).update(text).digest();
