// The whole answer to a request, before any of it is sent: for every choice its pieces and how it ends.
import { randomFrom, story } from "./story.mjs";
import { tokenize } from "./tokenizer.mjs";

/// {choices: [{index, pieces: [{text, logprob}], finish}], usage}. The pieces of a choice, joined, are its text.
/// `text` replaces the story, for tests that want their own.
export function answer(request, text = null) {
  const seed = request.seed ?? Math.floor(Math.random() * 2 ** 31);
  const choices = [];
  let completionTokens = 0;
  for (const [p, prompt] of request.prompts.entries()) {
    for (let i = 0; i < request.bestOf; i++) {
      // best_of writes more than it shows, and all of it counts.
      const written = write(text ?? story(seed + i), request);
      completionTokens += written.tokens;
      if (i >= request.n) continue;
      const echoed = request.echo ? prompt.tokens : [];
      choices.push({
        index: p * request.n + i,
        pieces: withLogprobs([...echoed, ...written.pieces], seed + i, echoed.length > 0),
        finish: written.finish,
      });
    }
  }
  const promptTokens = request.prompts.reduce((sum, prompt) => sum + prompt.tokens.length, 0) + request.suffixTokens.length;
  return {
    choices,
    usage: { prompt_tokens: promptTokens, completion_tokens: completionTokens, total_tokens: promptTokens + completionTokens },
  };
}

/// Cuts the text at max_tokens and at the first stop sequence, which is left out. `tokens` counts what was
/// generated, the stop sequence among it.
function write(text, { maxTokens, stop }) {
  const all = tokenize(text);
  const kept = all.slice(0, maxTokens);
  const joined = kept.join("");
  const cuts = stop.map((sequence) => ({ at: joined.indexOf(sequence), length: sequence.length })).filter(({ at }) => at >= 0);
  if (cuts.length === 0) return { pieces: kept, tokens: kept.length, finish: kept.length < all.length ? "length" : "stop" };
  const cut = cuts.reduce((first, next) => (next.at < first.at ? next : first));
  const pieces = [];
  let offset = 0;
  let tokens = 0;
  for (const piece of kept) {
    if (offset >= cut.at + cut.length) break;
    if (offset < cut.at) pieces.push(piece.slice(0, cut.at - offset));
    offset += piece.length;
    tokens += 1;
  }
  return { pieces, tokens, finish: "stop" };
}

/// Invented but repeatable probabilities. The first token of an echoed prompt has none, as with real models.
function withLogprobs(texts, seed, echoed) {
  const random = randomFrom(seed);
  return texts.map((text, i) => ({ text, logprob: echoed && i === 0 ? null : -Number((random() * 3).toFixed(4)) }));
}
