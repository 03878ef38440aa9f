// A ledger that cannot be asked: nobody is let through, or everybody, as the configuration says; and soon. Or one that cannot
// write.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { startGateway } from "./harness/gateway.mjs";
import { answer, asAsked, completion, events, silence, stream, textChunk } from "./harness/scripts.mjs";
import { assertErrorShape, choicesOf, chunksOf } from "./harness/sse.mjs";
import { eventually, untilTheDayHasTime } from "./harness/wait.mjs";

// One time-out is the bound of a request; two would be over it. The slack is for a busy machine.
const TIMEOUT_MS = 1500;
const SLACK_MS = 1200;
const LIMITS = { tenant: { requests_per_day: 1, tokens_per_minute: 1000 } };

const good = asAsked(answer(200, completion("ok")), stream(events(textChunk("ok", "stop"), "[DONE]")));

const startWith = (ledger, on_failure) =>
  startGateway({
    scripts: { good, "before headers": silence },
    ledger,
    configure: (config) => ({ ...config, quota: { on_failure, reserve_timeout_ms: TIMEOUT_MS } }),
  });

async function timed(make) {
  const began = Date.now();
  const response = await make();
  await response.bytes();
  return { response, tookMs: Date.now() - began };
}

for (const ledger of ["absent", "throws", "hangs"]) {
  const least = ledger === "hangs" ? TIMEOUT_MS : 0;
  const inTime = (tookMs) => assert.ok(tookMs >= least - 1 && tookMs < TIMEOUT_MS + SLACK_MS, `it took ${tookMs} ms`);

  for (const streaming of [false, true]) {
    const kind = streaming ? "a stream" : "a whole answer";
    suite(`a ledger that ${ledger === "absent" ? "is absent" : ledger}, for ${kind}`, () => {
      let deny;
      let allow;
      before(async () => {
        [deny, allow] = await Promise.all([startWith(ledger, "deny"), startWith(ledger, "allow")]);
      });
      after(() => Promise.all([deny?.stop(), allow?.stop()]));
      const ask = (caller) => caller.complete({ model: "good", prompt: "p", stream: streaming });

      test("deny: 503, in time, and no upstream is called", async () => {
        for (const limits of [undefined, LIMITS]) {
          const caller = await deny.addCaller(limits);
          const { response, tookMs } = await timed(() => ask(caller));
          assert.equal(response.status, 503);
          const { error } = await response.json();
          assertErrorShape(error);
          assert.deepEqual([error.type, error.param, error.code], ["api_error", null, "quota_unavailable"]);
          assert.equal(response.headers["x-should-retry"], undefined, "it may be better at the next try");
          inTime(tookMs);
        }
        assert.equal(deny.upstream.requestsFor("good").length, 0);
      });

      test("allow: 200, in time, again and again", async () => {
        const caller = await allow.addCaller(LIMITS);
        for (let nth = 0; nth < 2; nth += 1) {
          const { response, tookMs } = await timed(() => ask(caller));
          const text = await response.text();
          assert.equal(response.status, 200, text);
          const said = streaming ? choicesOf(chunksOf(text))[0].text : JSON.parse(text).choices[0].text;
          assert.equal(said, "ok");
          inTime(tookMs);
        }
      });

      test("what costs nothing is answered, in time, without the headers that nobody knows", async () => {
        const caller = await deny.addCaller(LIMITS);
        const { response, tookMs } = await timed(() => caller.get("/v1/models"));
        assert.equal(response.status, 200);
        assert.equal(response.headers["x-ratelimit-limit-requests"], undefined);
        assert.ok(tookMs < TIMEOUT_MS + SLACK_MS, `it took ${tookMs} ms`);
      });

      test("the log says which ledger, and why", async () => {
        assert.match(await deny.logWith("did not answer"), /the ledger of tenant `tenant-[0-9a-f]+` did not answer: ./);
      });
    });
  }
}

suite("a ledger that takes reserves and nothing else", () => {
  let gateway;
  before(async () => {
    gateway = await startWith("takes reserves and nothing else", "deny");
  });
  after(() => gateway?.stop());

  for (const streaming of [false, true]) {
    test(`nobody waits for a settlement (${streaming ? "a stream" : "a whole answer"})`, async () => {
      const caller = await gateway.addCaller();
      const { response, tookMs } = await timed(() => caller.complete({ model: "good", prompt: "p", stream: streaming }));
      assert.equal(response.status, 200);
      assert.ok(tookMs < SLACK_MS, `it took ${tookMs} ms`);
    });
  }
});

suite("a ledger that fails when it is told for the first time", () => {
  let gateway;
  before(async () => {
    gateway = await startWith("fails at first", "deny");
  });
  after(() => gateway?.stop());

  for (const streaming of [false, true]) {
    test(`is told again (${streaming ? "a stream" : "a whole answer"})`, async () => {
      const caller = await gateway.addCaller();
      const response = await caller.complete({ model: "good", prompt: "nine byte", stream: streaming });
      const [, id] = (await response.text()).match(/"id":"(cmpl-[^"]+)"/);
      const log = await gateway.logWith(`told: {"settle":["${id}"`);
      assert.equal(log.split(`"settle":["${id}"`).length, 2, "once is enough");
    });
  }

  test("is told again of a client that went before the headers", async () => {
    const caller = await gateway.addCaller();
    const call = caller.start({ model: "before headers", prompt: "p" });
    await gateway.upstream.requestFor("before headers");
    call.hangUp();
    // It used nothing, as nobody estimated; it failed, and was made.
    await gateway.logWith(`",0,0,false,true,false]}`);
  });
});

suite("a ledger that fails to write now and then", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: { good },
      ledger: "fails to write now and then",
      configure: (config) => ({ ...config, quota: { on_failure: "deny", slice_ms: 0 } }),
    });
    await untilTheDayHasTime(60_000);
  });
  after(() => gateway?.stop());

  test("has all requests in its books that were let through, however many waited for the row", async () => {
    const caller = await gateway.addCaller({ tenant: { requests_per_day: 100_000, concurrent_requests: 1000 } });
    const statuses = [];
    const client = async () => {
      for (let nth = 0; nth < 25; nth += 1) statuses.push((await caller.complete({ model: "good", prompt: "p" })).status);
    };
    await Promise.all(Array.from({ length: 40 }, client));
    const count = (wanted) => statuses.filter((status) => status === wanted).length;
    assert.equal(count(200) + count(503), statuses.length);
    assert.ok(count(503) > 0 && count(200) > 500, `${count(503)} were refused, ${count(200)} were not`);
    const usage = await caller.usageOf(count(200));
    assert.deepEqual([usage.requests, usage.errors], [count(200), 0]);
    await eventually("what was reserved for those that were refused to be given back", async () => {
      const { headers } = await caller.get("/v1/models");
      return Number(headers["x-ratelimit-remaining-requests"]) === 100_000 - count(200) ? true : undefined;
    });
  });
});
