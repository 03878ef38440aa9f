// Workers AI through the Worker's binding: the runtime's own client of it, with a wire upstream in the place of the
// service. That it answers as every other dialect does is in dialects.test.mjs; here is what a binding has of its own.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { completionCall, startGateway } from "./harness/gateway.mjs";
import { startCall } from "./harness/http_client.mjs";
import { answer, events, pieces, silence, stream, talkUntilGone } from "./harness/scripts.mjs";
import { assertErrorShape, choicesOf, chunksOf } from "./harness/sse.mjs";

const SOON_MS = 1000;
const through = (binding, script, upstream) => ({
  script,
  dialect: "workers-ai",
  upstream: { base_url: undefined, key: undefined, binding, ...upstream },
});
const said = (response) => events({ response });
const untilGone = (exchange) => exchange.closed;

suite("the binding to Workers AI", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      ai: { throws: "InferenceUpstreamError: 3040: Capacity temporarily exceeded, please try again." },
      scripts: {
        throws: through("AI_THROWS", silence),
        "is not there": through("NO_SUCH_AI", silence),
        resets: through("AI", (exchange) => exchange.reset()),
        "HTML where a status says all is well": through("AI", answer(200, "<html>")),
        "an error with no code": through("AI", answer(500, "upstream connect error")),
        silent: through("AI", silence),
        slow: through("AI", silence, { headers_timeout_ms: 250, total_timeout_ms: 250 }),
        "before the first token": through("AI", pieces([": working\n\n", untilGone])),
        "mid-stream": through("AI", pieces([said("first"), untilGone])),
        "mid-stream, talking": through("AI", pieces([talkUntilGone(said("again"))])),
        "stop sequence": through("AI", pieces([said("one, tw"), said("o, E"), said("N"), said("D, three"), untilGone])),
        "in OpenAI's form": through("AI", stream(events({ choices: [{ index: 0, text: "ok", finish_reason: "length" }] }, "[DONE]"))),
      },
    });
  });
  after(() => gateway?.stop());

  const call = (model, more = {}) => gateway.complete({ model, prompt: "p", ...more });
  const start = (model, streaming) => startCall(gateway.port, completionCall(gateway.key, { model, prompt: "p", stream: streaming }));
  const closed = async (model, count) =>
    (await gateway.upstream.requestFor(model, count)).connectionClosed("the service to see that the call is cancelled", SOON_MS);

  for (const streaming of [false, true]) {
    for (const [model, status, type, code] of [
      ["throws", 429, "requests", "upstream_rate_limited"],
      ["is not there", 502, "api_error", "upstream_error"],
      ["resets", 502, "api_error", "upstream_error"],
      ["HTML where a status says all is well", 502, "api_error", "upstream_error"],
      ["an error with no code", 502, "api_error", "upstream_error"],
    ]) {
      test(`a binding that fails: ${model} (stream: ${streaming})`, async () => {
        const response = await call(model, { stream: streaming });
        const { error } = await response.json();
        assertErrorShape(error);
        assert.deepEqual([response.status, error.type, error.code], [status, type, code]);
        if (status === 429) assert.equal(response.headers["retry-after"], "1");
      });
    }

    test(`headers that never come are a 504, and the call is cancelled (stream: ${streaming})`, async () => {
      const response = await call("slow", { stream: streaming });
      const { error } = await response.json();
      assert.deepEqual([response.status, error.code], [504, "upstream_timeout"]);
      await closed("slow", streaming ? 2 : 1);
    });

    test(`pitfall 29: a client that goes away before the headers (stream: ${streaming})`, async () => {
      const pending = start("silent", streaming);
      const request = await gateway.upstream.requestFor("silent", streaming ? 2 : 1);
      pending.hangUp();
      await request.connectionClosed("the service to see that the call is cancelled", SOON_MS);
    });
  }

  test("the operator's log says which binding is not there, and the client is not told", async () => {
    const response = await call("is not there");
    assert.ok(!(await response.text()).includes("NO_SUCH_AI"));
    await gateway.logWith("NO_SUCH_AI");
  });

  test("pitfall 29: a client that goes away before the first token", async () => {
    const pending = start("before the first token", true);
    const request = await gateway.upstream.requestFor("before the first token");
    pending.hangUp();
    await request.connectionClosed("the service to see that the call is cancelled", SOON_MS);
  });

  for (const model of ["mid-stream", "mid-stream, talking"]) {
    test(`pitfall 29: a client that goes away ${model}`, async () => {
      const response = await start(model, true).response;
      await response.contains("\n\n");
      response.hangUp();
      await closed(model);
    });
  }

  test("a stop sequence that the gateway finds cancels the call", async () => {
    const response = await call("stop sequence", { stream: true, stop: ["END"] });
    assert.deepEqual(choicesOf(chunksOf(await response.text())), { 0: { text: "one, two, ", finish_reason: "stop" } });
    await closed("stop sequence");
  });

  test("a model that answers in OpenAI's form", async () => {
    const response = await call("in OpenAI's form", { stream: true });
    assert.deepEqual(choicesOf(chunksOf(await response.text())), { 0: { text: "ok", finish_reason: "length" } });
  });
});
