// Reads an answer of /v1/completions, the gateway's and a server's own, as
// `{ choices: [{ text, finish_reason, logprobs }], usage: { prompt_tokens, completion_tokens } }`.
import assert from "node:assert/strict";
import { choicesOf, chunksOf } from "../e2e/harness/sse.mjs";

/** The gateway's stream, which has to be exactly as the API says. */
export function gatewayStream(text) {
  const chunks = chunksOf(text);
  const choices = Object.entries(choicesOf(chunks)).map(([index, choice]) => ({
    ...choice,
    logprobs: joined(piecesOf(chunks, Number(index)).map((piece) => piece.logprobs)),
  }));
  return { choices, usage: usageOf(chunks) };
}

/** A server's stream, in whatever way it writes it. */
export function serverStream(text) {
  const events = text.split(/\r?\n/).filter((line) => /^data: ?\{/.test(line)).map((line) => JSON.parse(line.slice("data:".length)));
  for (const event of events) assert.ok(!event.error, `the server fails: ${JSON.stringify(event)}`);
  const count = Math.max(0, ...events.flatMap((event) => event.choices.map((choice) => choice.index + 1)));
  const choices = Array.from({ length: count }, (_, index) => {
    const pieces = piecesOf(events, index);
    return {
      text: pieces.map((piece) => piece.text).join(""),
      finish_reason: pieces.findLast((piece) => piece.finish_reason)?.finish_reason ?? null,
      logprobs: joined(pieces.map((piece) => piece.logprobs)),
    };
  });
  return { choices, usage: usageOf(events) };
}

/** A whole answer, of either. */
export function wholeAnswer(text) {
  const { choices, usage } = JSON.parse(text);
  const choice = ({ text, finish_reason, logprobs }) => ({ text, finish_reason, logprobs: joined([logprobs]) });
  return { choices: choices.toSorted((a, b) => a.index - b.index).map(choice), usage: countsOf(usage) };
}

const piecesOf = (chunks, index) => chunks.flatMap((chunk) => chunk.choices.filter((choice) => choice.index === index));
const usageOf = (chunks) => countsOf(chunks.findLast((chunk) => chunk.usage)?.usage);
const countsOf = (usage) => usage && { prompt_tokens: usage.prompt_tokens, completion_tokens: usage.completion_tokens };

/** One `{ token, logprob, top }` a token, from the shape of completions or that of chats; undefined without any. */
function joined(parts) {
  const tokens = parts.filter(Boolean).flatMap((part) => {
    if (part.content) return part.content.map(({ token, logprob, top_logprobs: top }) => ({ token, logprob, top: Object.fromEntries(top.map((one) => [one.token, one.logprob])) }));
    return part.tokens.map((token, at) => ({ token, logprob: part.token_logprobs[at], top: part.top_logprobs[at] }));
  });
  return tokens.length === 0 ? undefined : tokens;
}
