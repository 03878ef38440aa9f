// A small real tokenizer: words with the space before them, numbers, runs of punctuation, white space. Joining
// the tokens gives the text back, and usage is the number of tokens.
const TOKEN = / ?[\p{L}\p{M}'’]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+/gu;

export function tokenize(text) {
  return text.match(TOKEN) ?? [];
}

/// The text of a token id, for prompts that come as ids. There is no vocabulary behind it: an id reads as itself.
export function textOfId(id) {
  return ` <${id}>`;
}
