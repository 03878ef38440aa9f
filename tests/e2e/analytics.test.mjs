// A data point for each request, where a dataset is bound; and a log that can be turned off.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { startGateway } from "./harness/gateway.mjs";
import { DATA_POINT } from "./harness/dataset.mjs";
import { answer, completion, events, stream, textChunk, USAGE } from "./harness/scripts.mjs";

suite("data points", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: { whole: answer(200, completion("ok")), streamed: stream(events(textChunk("ok", "stop"), "[DONE]")) },
      configure: (config) => ({ ...config, observe: { log: false } }),
      dataset: true,
    });
  });
  after(() => gateway?.stop());

  for (const [model, streaming] of [["whole", false], ["streamed", true]]) {
    test(`one for each request (${model})`, async () => {
      const caller = await gateway.addCaller();
      const response = await caller.complete({ model, prompt: "a prompt of its own", stream: streaming });
      assert.equal(response.status, 200, await response.text());
      const log = await gateway.logWith(`"indexes":["${caller.tenant}"]`);
      const points = log.split("\n").filter((line) => line.startsWith(DATA_POINT) && line.includes(caller.tenant));
      assert.equal(points.length, 1);
      const { indexes, blobs, doubles } = JSON.parse(points[0].slice(DATA_POINT.length));
      assert.deepEqual(indexes, [caller.tenant]);
      const [route, tenant, key, asked, target, dialect, ended, error, finishReason] = blobs;
      assert.deepEqual([route, tenant, key, asked, dialect, ended, error, finishReason], ["completions", caller.tenant, caller.keyId, model, "openai-completions", "complete", "", "stop"]);
      assert.ok(target.endsWith(`/${model}`), target);
      const [status, attempts, prompt, tokens, estimated, streams, headersMs, firstTokenMs, totalMs] = doubles;
      assert.deepEqual([status, attempts, streams], [200, 1, Number(streaming)]);
      if (!streaming) assert.deepEqual([prompt, tokens, estimated], [USAGE.prompt_tokens, USAGE.completion_tokens, 0]);
      assert.ok(headersMs >= 0 && firstTokenMs >= headersMs && totalMs >= firstTokenMs, `${headersMs} ${firstTokenMs} ${totalMs}`);
      assert.ok(!log.includes("a prompt of its own") && !log.includes('"request_id"'), "the log is off");
    });
  }
});
