// The JSON of both APIs. Each has `whole(answer)` for a plain answer, and for a stream `piece`, `finish` and `usage`.

/// `count` likely tokens beside the one that was chosen, which is the likeliest.
function alternatives(piece, count) {
  return Array.from({ length: count }, (_, i) => ({
    text: i === 0 ? piece.text : `${piece.text}~${i}`,
    logprob: Number((piece.logprob - i).toFixed(4)),
  }));
}

export function completionWire(request, { id, created }) {
  const base = { id, object: "text_completion", created, model: request.model };
  const usageField = request.includeUsage ? { usage: null } : {};

  function logprobs(pieces, offset) {
    if (request.logprobs === null) return null;
    let at = offset;
    const text_offset = pieces.map((piece) => {
      const here = at;
      at += [...piece.text].length;
      return here;
    });
    return {
      tokens: pieces.map((piece) => piece.text),
      token_logprobs: pieces.map((piece) => piece.logprob),
      top_logprobs: request.logprobs === 0 ? null : pieces.map((piece) => piece.logprob === null ? null
        : Object.fromEntries(alternatives(piece, request.logprobs).map(({ text, logprob }) => [text, logprob]))),
      text_offset,
    };
  }

  const chunk = (choice) => ({ ...base, choices: [choice], ...usageField });
  return {
    whole: ({ choices, usage }) => ({
      ...base,
      choices: choices.map(({ index, pieces, finish }) => ({
        text: pieces.map((piece) => piece.text).join(""), index, logprobs: logprobs(pieces, 0), finish_reason: finish,
      })),
      usage,
    }),
    open: () => [],
    piece: (index, piece, offset) => chunk({ text: piece.text, index, logprobs: logprobs([piece], offset), finish_reason: null }),
    finish: (index, reason) => chunk({ text: "", index, logprobs: null, finish_reason: reason }),
    usage: (usage) => ({ ...base, choices: [], usage }),
  };
}

export function chatWire(request, { id, created }) {
  const base = { id, created, model: request.model };
  const usageField = request.includeUsage ? { usage: null } : {};

  const token = (text, logprob) => ({ token: text, logprob, bytes: [...Buffer.from(text)] });
  const logprobs = (pieces) => request.logprobs === null ? null : {
    content: pieces.map((piece) => ({
      ...token(piece.text, piece.logprob),
      top_logprobs: alternatives(piece, request.logprobs).map(({ text, logprob }) => token(text, logprob)),
    })),
    refusal: null,
  };

  const chunk = (choice) => ({ ...base, object: "chat.completion.chunk", choices: [choice], ...usageField });
  return {
    whole: ({ choices, usage }) => ({
      ...base,
      object: "chat.completion",
      choices: choices.map(({ index, pieces, finish }) => ({
        index,
        message: { role: "assistant", content: pieces.map((piece) => piece.text).join(""), refusal: null },
        logprobs: logprobs(pieces),
        finish_reason: finish,
      })),
      usage,
    }),
    open: (choices) => choices.map(({ index }) => chunk({ index, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null })),
    piece: (index, piece) => chunk({ index, delta: { content: piece.text }, logprobs: logprobs([piece]), finish_reason: null }),
    finish: (index, reason) => chunk({ index, delta: {}, logprobs: null, finish_reason: reason }),
    usage: (usage) => ({ ...base, object: "chat.completion.chunk", choices: [], usage }),
  };
}
