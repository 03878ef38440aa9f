// A client that goes away takes its upstream call with it, whenever it goes. It goes by RST: a FIN is only
// seen at the next write.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { completionCall, startGateway } from "./harness/gateway.mjs";
import { startCall } from "./harness/http_client.mjs";
import { chatChunk, events, pieces, silence, stream, talkUntilGone, textChunk } from "./harness/scripts.mjs";
import { chunksOf } from "./harness/sse.mjs";

const DIALECTS = ["openai-completions", "openai-chat"];
const chunkOf = { "openai-completions": textChunk, "openai-chat": (text, finish) => chatChunk({ content: text }, finish) };
const untilGone = (exchange) => exchange.closed;

function scripts() {
  return Object.fromEntries(DIALECTS.flatMap((dialect) => [
    [`before headers ${dialect}`, { dialect, script: silence }],
    [`before the first token ${dialect}`, { dialect, script: pieces([": working\n\n", untilGone]) }],
    [`mid-stream ${dialect}`, { dialect, script: pieces([events(chunkOf[dialect]("first")), untilGone]) }],
    [`mid-stream, talking ${dialect}`, { dialect, script: pieces([talkUntilGone(events(chunkOf[dialect]("again")))]) }],
    [`not streaming ${dialect}`, { dialect, script: silence }],
  ]));
}

suite("pitfall 29: a client that goes away", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({ scripts: { ...scripts(), well: stream(events(textChunk("well", "stop"), "[DONE]")) } });
  });
  after(() => gateway?.stop());

  const start = (model, streaming) =>
    startCall(gateway.port, completionCall(gateway.key, { model, prompt: "p", stream: streaming }));
  const arrival = (model) => gateway.upstream.requestFor(model);

  for (const dialect of DIALECTS) {
    for (const [when, streaming] of [["before headers", true], ["before the first token", true], ["not streaming", false]]) {
      test(`${when} (${dialect})`, async () => {
        const model = `${when} ${dialect}`;
        const call = start(model, streaming);
        const request = await arrival(model);
        call.hangUp();
        await request.connectionClosed("the upstream to be cancelled");
      });
    }

    for (const when of ["mid-stream", "mid-stream, talking"]) {
      test(`${when} (${dialect})`, async () => {
        const model = `${when} ${dialect}`;
        const response = await start(model, true).response;
        await response.contains("\n\n");
        response.hangUp();
        const request = await arrival(model);
        await request.connectionClosed("the upstream to be cancelled");
      });
    }
  }

  test("the isolate serves others as before", async () => {
    const response = await gateway.complete({ model: "well", prompt: "p", stream: true });
    const chunks = chunksOf(await response.text());
    assert.equal(chunks[0].choices[0].text, "well");
  });
});
