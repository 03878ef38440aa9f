// Upstreams that write faster than their events can be handed on one by one: a backlog is read at once, and nothing of it
// is lost, mixed up, or held back once they write slowly again.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { completionCall, startGateway } from "./harness/gateway.mjs";
import { startCall } from "./harness/http_client.mjs";
import { events, pieces, talkUntilGone, textChunk } from "./harness/scripts.mjs";
import { textOf } from "./harness/sse.mjs";
import { eventually, latch } from "./harness/wait.mjs";

const WORDS = Array.from({ length: 3000 }, (_, i) => ` w${i}`);
const BRISK = Array.from({ length: 30 }, (_, i) => ` b${i}`);
const OTHERS = ["a", "b", "c", "d"];
const one = (text) => events(textChunk(text));
const END = events(textChunk("", "stop"), "[DONE]");

suite("a backlog", () => {
  const slow = latch();
  const brisk = latch();
  const broken = latch();
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: {
        burst: pieces([...WORDS.map(one), END]),
        ...Object.fromEntries(OTHERS.map((other) => [other, pieces([...WORDS.map((word) => one(word + other)), END])])),
        halves: pieces([...WORDS.flatMap((word) => [one(word).slice(0, 40), one(word).slice(40)]), END]),
        "burst, then slow": pieces([...WORDS.map(one), () => slow.opened, one(" late"), END]),
        "burst, then brisk": pieces([...WORDS.map(one), () => brisk.opened, ...BRISK.flatMap((word) => [() => pause(10), one(word)]), END]),
        "burst, then reset": pieces([...WORDS.map(one), async (exchange) => {
          await broken.opened;
          await exchange.reset();
        }]),
        "burst, then nothing": pieces(WORDS.map(one)),
        endless: pieces([talkUntilGone(one(" on"))]),
      },
    });
  });
  after(() => gateway?.stop());

  const start = (model) => startCall(gateway.port, completionCall(gateway.key, { model, prompt: "p", stream: true }));

  for (const model of ["burst", "halves"]) {
    test(`all of it comes, in order (${model})`, async () => {
      const bodies = await Promise.all(Array.from({ length: 8 }, async () => (await start(model).response).text()));
      for (const body of bodies) {
        assert.equal(textOf(body), WORDS.join(""));
        assert.ok(body.endsWith("data: [DONE]\n\n"));
      }
    });
  }

  test("none of it shows in another stream, at the same time or after", async () => {
    for (let round = 0; round < 3; round += 1) {
      const bodies = await Promise.all(OTHERS.map(async (other) => (await start(other).response).text()));
      bodies.forEach((body, index) => assert.equal(textOf(body), WORDS.map((word) => word + OTHERS[index]).join("")));
    }
  });

  test("several events go out in one piece of the transfer coding", async () => {
    const pieceLengths = [];
    const response = await start("burst").response;
    response.onPiece((piece) => pieceLengths.push(piece.length));
    await response.text();
    assert.ok(pieceLengths.length < WORDS.length / 2, `${pieceLengths.length} pieces for ${WORDS.length} events`);
  });

  test("what comes slowly after it is not held back", async () => {
    const response = await start("burst, then slow").response;
    await response.contains(`${WORDS.at(-1)}"`);
    slow.open();
    assert.equal(textOf(await response.text()), `${WORDS.join("")} late`);
  });

  test("what comes briskly after it goes out as it comes", async () => {
    const response = await start("burst, then brisk").response;
    await response.contains(`${WORDS.at(-1)}"`);
    let pieces = 0;
    response.onPiece(() => (pieces += 1));
    brisk.open();
    assert.equal(textOf(await response.text()), [...WORDS, ...BRISK].join(""));
    // A busy machine may hand on some of them together.
    assert.ok(pieces > (BRISK.length * 2) / 3, `${pieces} pieces for ${BRISK.length} words`);
  });

  test("a reset after it is an error event, after all that came", async () => {
    const response = await start("burst, then reset").response;
    await response.contains(`${WORDS.at(-1)}"`);
    broken.open();
    const body = await response.text();
    assert.match(body, /\ndata: \{"error":.*\n\ndata: \[DONE\]\n\n$/);
  });

  test("an end that was not said is an error event", async () => {
    const body = await (await start("burst, then nothing").response).text();
    assert.match(body, /before it was complete/);
    assert.ok(body.includes(`${WORDS.at(-1)}"`));
  });

  test("pitfall 29: a client that goes in the midst of it takes the upstream along", async () => {
    const response = await start("endless").response;
    await eventually("a thousand events", () => response.textSoFar().length > 250_000 || undefined);
    response.hangUp();
    const request = await gateway.upstream.requestFor("endless");
    await request.connectionClosed("the upstream to be cancelled");
  });

  test("pitfall 30: a client that stops reading in the midst of it gets all once it reads again", async () => {
    const response = await start("burst").response;
    await response.contains(`${WORDS[20]}"`);
    response.pause();
    await start("burst").response.then((other) => other.text());
    response.resume();
    assert.equal(textOf(await response.text()), WORDS.join(""));
  });
});
