// What the demo upstream writes: sentences from a fixed list, in an order that a seed decides. It opens by saying
// what it is. Some of it is outside ASCII on purpose, so that split characters show.
const OPENING = " This is a scripted demo text: no language model wrote it, and it answers nothing.";

const SENTENCES = [
  " A small program picks these sentences from a list, one after another.",
  " The order depends on the seed of the request, so the same seed gives the same text.",
  " Every word is counted as it is sent, and the usage at the end is that count.",
  " Naïve cafés, 東京 and a rainbow 🌈 are here to show that characters arrive whole.",
  " Between two tokens it waits a little, as a model would.",
  " Nothing here was learned, and nothing here is remembered.",
  " To see real answers, point the gateway at a real upstream.",
  " The gateway in front of it does not know that this is a demo.",
  "\n\nHere a new paragraph begins, because real answers have those too.",
  " It stops when the text is over, at max_tokens, or at a stop sequence.",
];

/// Mulberry32: a tiny generator of numbers in [0, 1) that is the same everywhere for the same seed.
export function randomFrom(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function story(seed) {
  const random = randomFrom(seed);
  const rest = [...SENTENCES];
  let text = OPENING;
  while (rest.length > 0) text += rest.splice(Math.floor(random() * rest.length), 1)[0];
  return text;
}
