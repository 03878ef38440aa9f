// The two request bodies, checked and brought to one form:
// {prompts: [{text, tokens}], n, bestOf, maxTokens, stop, seed, echo, logprobs, suffixTokens, stream, includeUsage}.
//
// temperature, top_p, the penalties, logit_bias and user are checked and change nothing: there is no model.
import { badRequest } from "./errors.mjs";
import { textOfId, tokenize } from "./tokenizer.mjs";

const COMMON = [
  "model", "max_tokens", "n", "stop", "stream", "stream_options", "seed", "temperature", "top_p",
  "frequency_penalty", "presence_penalty", "logit_bias", "user", "logprobs",
];
const COMPLETION = new Set([...COMMON, "prompt", "best_of", "echo", "suffix"]);
const CHAT = new Set([...COMMON, "messages", "max_completion_tokens", "top_logprobs"]);

function number(body, name, { min, max, fallback = null, integer = false }) {
  const value = body[name] ?? fallback;
  if (value === null) return null;
  const kind = integer ? "integer" : "decimal";
  if (typeof value !== "number" || (integer && !Number.isInteger(value))) {
    throw badRequest(`Invalid type for '${name}': expected ${integer ? "an integer" : "a decimal"}.`, name, "invalid_type");
  }
  if (value < min) {
    throw badRequest(`Invalid '${name}': ${kind} below minimum value. Expected a value >= ${min}, but got ${value} instead.`, name, `${kind}_below_min_value`);
  }
  if (value > max) {
    throw badRequest(`Invalid '${name}': ${kind} above maximum value. Expected a value <= ${max}, but got ${value} instead.`, name, `${kind}_above_max_value`);
  }
  return value;
}

const integer = (body, name, range) => number(body, name, { ...range, integer: true });

function boolean(body, name) {
  const value = body[name] ?? false;
  if (typeof value !== "boolean") throw badRequest(`Invalid type for '${name}': expected a boolean.`, name, "invalid_type");
  return value;
}

function stopSequences(body) {
  const value = body.stop ?? [];
  const list = Array.isArray(value) ? value : [value];
  if (list.length > 4 || list.some((stop) => typeof stop !== "string")) {
    throw badRequest("Invalid 'stop': expected a string or an array of at most 4 strings.", "stop", "invalid_type");
  }
  return list.filter((stop) => stop !== "");
}

function knownOnly(body, known) {
  const unknown = Object.keys(body).filter((name) => !known.has(name));
  if (unknown.length > 0) {
    throw badRequest(`Unrecognized request argument${unknown.length > 1 ? "s" : ""} supplied: ${unknown.join(", ")}`);
  }
}

function common(body) {
  for (const name of ["frequency_penalty", "presence_penalty"]) number(body, name, { min: -2, max: 2 });
  number(body, "temperature", { min: 0, max: 2 });
  number(body, "top_p", { min: 0, max: 1 });
  const stream = boolean(body, "stream");
  if (body.stream_options != null && !stream) {
    throw badRequest("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options");
  }
  return {
    model: body.model,
    n: integer(body, "n", { min: 1, max: 128, fallback: 1 }),
    stop: stopSequences(body),
    // Temperature 0 asks for the likeliest text: here that is the text of seed 0.
    seed: integer(body, "seed", { min: -(2 ** 63), max: 2 ** 63, fallback: body.temperature === 0 ? 0 : null }),
    stream,
    includeUsage: body.stream_options?.include_usage === true,
  };
}

function promptsOf(prompt) {
  const isIds = (value) => Array.isArray(value) && value.length > 0 && value.every(Number.isInteger);
  const ofText = (text) => ({ text, tokens: tokenize(text) });
  const ofIds = (ids) => ({ text: ids.map(textOfId).join(""), tokens: ids.map(textOfId) });
  if (typeof prompt === "string") return [ofText(prompt)];
  if (isIds(prompt)) return [ofIds(prompt)];
  if (Array.isArray(prompt) && prompt.length > 0) {
    if (prompt.every((item) => typeof item === "string")) return prompt.map(ofText);
    if (prompt.every(isIds)) return prompt.map(ofIds);
  }
  throw badRequest("Invalid 'prompt': expected a string, an array of strings, of integers, or of arrays of integers.", "prompt", "invalid_type");
}

export function readCompletion(body) {
  knownOnly(body, COMPLETION);
  if (body.prompt == null) throw badRequest("Missing required parameter: 'prompt'.", "prompt", "missing_required_parameter");
  const request = common(body);
  const bestOf = integer(body, "best_of", { min: request.n, max: 20, fallback: Math.max(request.n, 1) });
  if (bestOf > 1 && request.stream && bestOf > request.n) {
    throw badRequest("Streaming is not supported with best_of > n.", "best_of");
  }
  return {
    ...request,
    prompts: promptsOf(body.prompt),
    bestOf,
    maxTokens: integer(body, "max_tokens", { min: 0, max: 1_000_000, fallback: 16 }),
    echo: boolean(body, "echo"),
    logprobs: integer(body, "logprobs", { min: 0, max: 5 }),
    suffixTokens: tokenize(body.suffix ?? ""),
  };
}

function textOfMessage(message) {
  const content = message?.content;
  if (typeof content === "string") return content;
  if (Array.isArray(content) && content.every((part) => part?.type === "text" && typeof part.text === "string")) {
    return content.map((part) => part.text).join("");
  }
  throw badRequest("Invalid 'messages': every message needs a role and text as its content.", "messages", "invalid_type");
}

export function readChat(body) {
  knownOnly(body, CHAT);
  if (!Array.isArray(body.messages) || body.messages.length === 0) {
    throw badRequest("Missing required parameter: 'messages'.", "messages", "missing_required_parameter");
  }
  const request = common(body);
  const text = body.messages.map(textOfMessage).join("\n");
  const range = { min: 1, max: 1_000_000 };
  return {
    ...request,
    prompts: [{ text, tokens: tokenize(text) }],
    bestOf: request.n,
    // Without a limit the text runs to its end.
    maxTokens: integer(body, "max_completion_tokens", range) ?? integer(body, "max_tokens", range) ?? Infinity,
    echo: false,
    logprobs: boolean(body, "logprobs") ? integer(body, "top_logprobs", { min: 0, max: 20, fallback: 0 }) : null,
    suffixTokens: [],
  };
}
