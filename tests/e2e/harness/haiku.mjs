// Two well-behaved models, one for each dialect, that say the same haiku to any client that can ask.
import { answer, asAsked, chatChunk, chatCompletion, completion, events, stream, textChunk, USAGE } from "./scripts.mjs";

// Characters of one to four bytes, a line end, and a word over two chunks.
export const PIECES = ["Pale", " light —", " 朝\nspi", "lls 🌅"];
export const HAIKU = PIECES.join("");

const end = [{ choices: [], usage: USAGE }, "[DONE]"];
const completionsStream = events(...PIECES.map((text) => textChunk(text)), textChunk("", "stop"), ...end);
const chatStream = events(
  chatChunk({ role: "assistant", content: "" }),
  ...PIECES.map((content) => chatChunk({ content })),
  chatChunk({}, "stop"),
  ...end,
);

export const HAIKU_MODELS = {
  "babbage-002": asAsked(answer(200, completion(HAIKU)), stream(completionsStream)),
  "chat-only": { script: asAsked(answer(200, chatCompletion(HAIKU)), stream(chatStream)), dialect: "openai-chat" },
};
