// Reads what the Worker streams, and is as strict as CONTRACT asks the Worker to be: a stream that a lenient
// client would still understand fails here.
import assert from "node:assert/strict";

const DONE = "data: [DONE]\n\n";

/** The events of a whole stream, parsed; `[DONE]` must stand at its very end, once. */
export function parseStream(text) {
  assert.ok(!text.includes("\r"), "a stream has LF only");
  assert.ok(!text.startsWith("\uFEFF"), "a stream has no BOM");
  assert.ok(text.endsWith(DONE), `a stream ends with [DONE]; this one: ${JSON.stringify(text.slice(-200))}`);
  return text
    .slice(0, -DONE.length)
    .split("\n\n")
    .slice(0, -1)
    .filter((block) => block !== ": keepalive")
    .map((block) => {
      assert.match(block, /^data: [^\n]+$/, "an event is one data line");
      return JSON.parse(block.slice("data: ".length));
    });
}

/** The chunks of a stream that must end well, with what holds for every one of them. */
export function chunksOf(text) {
  const events = parseStream(text);
  for (const event of events) {
    assert.ok(!("error" in event), `an unexpected error event: ${JSON.stringify(event)}`);
    assert.equal(event.id, events[0].id, "one id for the whole stream");
    assert.match(event.id, /^cmpl-/);
  }
  return events;
}

/** The text of a stream of one choice, which must end well. */
export const textOf = (body) => chunksOf(body).map(({ choices }) => choices[0]?.text ?? "").join("");

/** A stream that must end with the error event: `[chunks before it, the error]`. */
export function splitAtError(text) {
  const events = parseStream(text);
  const last = events.at(-1);
  assert.deepEqual(Object.keys(last), ["error"], `the last event is an error and nothing else: ${JSON.stringify(last)}`);
  assertErrorShape(last.error);
  for (const event of events.slice(0, -1)) assert.ok(!("error" in event), "one error event, and it is the last");
  return [events.slice(0, -1), last.error];
}

export function assertErrorShape(error) {
  assert.deepEqual(Object.keys(error).sort(), ["code", "message", "param", "type"]);
  assert.equal(typeof error.message, "string");
  assert.notEqual(error.message, "");
  assert.equal(typeof error.type, "string");
  for (const key of ["param", "code"]) assert.ok(error[key] === null || typeof error[key] === "string", key);
}

/** Text and finish reasons by choice index, with the rule that a finish reason comes once and last. */
export function choicesOf(chunks) {
  const choices = new Map();
  for (const chunk of chunks) {
    for (const piece of chunk.choices) {
      const choice = choices.get(piece.index) ?? { text: "", finish_reason: null };
      choices.set(piece.index, choice);
      assert.equal(choice.finish_reason, null, `choice ${piece.index} goes on after its finish reason`);
      choice.text += piece.text ?? piece.delta.text;
      choice.finish_reason = piece.finish_reason;
    }
  }
  return Object.fromEntries(choices);
}
