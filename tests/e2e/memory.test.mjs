// What an isolate holds: a client that has gone leaves nothing behind, and a body is held once, however it came.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { after, before, suite, test } from "node:test";
import { completionCall, startGateway } from "./harness/gateway.mjs";
import { startCall } from "./harness/http_client.mjs";
import { heldLittleMore } from "./harness/inspector.mjs";
import { residentBytes } from "./harness/processes.mjs";
import { answer, asAsked, chatChunk, completion, cut, events, pieces, silence, stream, textChunk } from "./harness/scripts.mjs";
import { eventually, within } from "./harness/wait.mjs";

const MEGABYTE = 1 << 20;
// So many of a kind that what each of them leaves would be seen.
const REQUESTS = 200;

const fiftyEvents = stream(events(...Array(49).fill(textChunk("a token or two ")), textChunk("", "stop"), "[DONE]"));

suite("memory of workerd", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({ scripts: { good: answer(200, completion("ok")), "before headers": silence, stream: fiftyEvents } });
  });
  after(() => gateway?.stop());

  const canMeasure = residentBytes(process.pid) !== undefined;
  const skip = canMeasure ? false : "SKIPPED: this system does not tell how much memory a process holds";
  const resident = () => {
    const bytes = residentBytes(gateway.pid);
    assert.ok(bytes > 0, "the process of workerd was found");
    return bytes;
  };

  async function heldMore(mostMegabytes, make) {
    const before = resident();
    let peak = before;
    const look = setInterval(() => (peak = Math.max(peak, resident())), 20);
    try {
      await make();
    } finally {
      clearInterval(look);
    }
    const more = (Math.max(peak, resident()) - before) / MEGABYTE;
    assert.ok(more < mostMegabytes, `${more.toFixed(1)} MB more at its peak than before`);
    return more;
  }

  test("240 clients with prompts of 256 KB hang up before the upstream's headers", { skip }, async (context) => {
    const body = { model: "before headers", prompt: "x".repeat(256 * 1024) };
    const round = async (first, count) => {
      for (let nth = first; nth < first + count; nth += 8) {
        const calls = Array.from({ length: 8 }, () => caller.start(body));
        const requests = await Promise.all(calls.map((_, index) => gateway.upstream.requestFor("before headers", nth + index + 1)));
        for (const call of calls) call.hangUp();
        await Promise.all(requests.map((request) => request.connectionClosed("the upstream to be cancelled")));
      }
    };
    const caller = await gateway.addCaller({ tenant: { concurrent_requests: 500 } });
    // What the runtime takes once and keeps is no leak.
    await round(0, 16);
    const more = await heldMore(150, () => round(16, 240));
    context.diagnostic(`${more.toFixed(1)} MB more after 240 clients`);
    const usage = await caller.usageOf(256);
    assert.deepEqual([usage.requests, usage.prompt_tokens, usage.errors], [256, 0, 256], "nothing is charged, nothing is forgotten");
  });

  test("1,000 streams of 50 events", { skip }, async (context) => {
    const round = async (count) => {
      for (let done = 0; done < count; done += 20) {
        const answers = await Promise.all(Array.from({ length: 20 }, () => gateway.complete({ model: "stream", prompt: "p", stream: true })));
        for (const response of answers) assert.ok((await response.text()).endsWith("data: [DONE]\n\n"));
      }
    };
    await round(200);
    const more = await heldMore(48, () => round(1000));
    context.diagnostic(`${more.toFixed(1)} MB more after 1,000 streams`);
  });

  test("a body of 300 KB in HTTP chunks of one byte", { skip }, async (context) => {
    // Each byte leaves some kilobytes of garbage in the runtime, which it collects when it likes. Bytes that each kept
    // the page of memory that they came in would be more than a gigabyte.
    const send = async () => assert.equal(await bytewise(300 * 1024), 200);
    const atFirst = await heldMore(300, send);
    const again = await heldMore(60, send);
    context.diagnostic(`${atFirst.toFixed(1)} MB more after the first, ${again.toFixed(1)} MB more after the second`);
  });

  /** The status of a completion whose body comes a byte a chunk. The chunks are made here: a client of Node's would
   *  gather them. */
  async function bytewise(length) {
    const head = { host: "127.0.0.1", authorization: `Bearer ${gateway.key}`, "content-type": "application/json", "transfer-encoding": "chunked", connection: "close" };
    const lines = Object.entries(head).map(([name, value]) => `${name}: ${value}\r\n`).join("");
    const shell = JSON.stringify({ model: "good", prompt: "" });
    const body = JSON.stringify({ model: "good", prompt: "x".repeat(length - shell.length) });
    const socket = connect({ host: "127.0.0.1", port: gateway.port, noDelay: true });
    const pieces = [];
    socket.on("data", (piece) => pieces.push(piece));
    const closed = once(socket, "close");
    socket.write(`POST /v1/completions HTTP/1.1\r\n${lines}\r\n`);
    for (const byte of body) {
      if (!socket.write(`1\r\n${byte}\r\n`)) await once(socket, "drain");
    }
    socket.write("0\r\n\r\n");
    await within(closed, "the answer to a body that came byte by byte", 60_000);
    return Number(Buffer.concat(pieces).toString("latin1").match(/^HTTP\/1\.1 (\d+)/)?.[1]);
  }
});

suite("what is left of requests in the isolate", () => {
  const untilClosed = (exchange) => exchange.closed;
  const text = events(textChunk("some text"));
  const good = asAsked(answer(200, completion("ok")), fiftyEvents);
  const impatient = { headers_timeout_ms: 100, first_token_timeout_ms: 100, idle_timeout_ms: 100, total_timeout_ms: 100 };
  const scripts = {
    good,
    silence,
    "headers alone": pieces([untilClosed]),
    "stops amid its stream": pieces([text, untilClosed]),
    "breaks off amid its stream": cut(text, "no last chunk"),
    "breaks off before its text": cut(events(textChunk("")), "no last chunk"),
    "breaks off amid an answer": async (exchange) => {
      await exchange.head(200, { "Content-Type": "application/json", "Content-Length": 1000 });
      await exchange.send('{"choices":');
      await exchange.close();
    },
    "breaks off in parts": { script: cut(events(chatChunk({ content: "some text" })), "no last chunk"), dialect: "openai-chat" },
    "stops in parts": { script: pieces([events(chatChunk({ content: "some text" })), untilClosed]), dialect: "openai-chat" },
    "too slow at all": { script: silence, upstream: impatient },
    "too slow amid its stream": { script: pieces([text, untilClosed]), upstream: impatient },
    "500": answer(500, { error: { message: "not now" } }),
  };
  const ONE = { prompt: "p", stream: true };
  const THREE = { prompt: ["p", "q", "r"], stream: true };
  const endsWith = (status) => async (call) => {
    const response = await call.response;
    await response.bytes();
    assert.equal(response.status, status);
  };
  const hangsUp = async (call) => {
    const response = await call.response;
    await response.contains("\n\n");
    assert.equal(response.status, 200);
    call.hangUp();
  };
  const hangsUpAtOnce = async (call) => {
    await call.sent;
    call.hangUp();
  };

  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts,
      inspect: true,
      configure(config) {
        config.models["500, then good"] = { targets: ["500", "good"].flatMap((name) => config.models[name].targets) };
        return { ...config, keepalive_ms: 50 };
      },
    });
  });
  after(() => gateway?.stop());

  for (const [what, body, act] of [
    ["whole answers", { model: "good", prompt: "p" }, endsWith(200)],
    ["streams", { model: "good", ...ONE }, endsWith(200)],
    ["streams at the second target", { model: "500, then good", ...ONE }, endsWith(200)],
    ["failures", { model: "500", prompt: "p" }, endsWith(502)],
    ["clients that hang up at once", { model: "silence", ...ONE }, hangsUpAtOnce],
    ["clients that hang up before a text", { model: "headers alone", ...ONE }, hangsUp],
    ["clients that hang up amid a stream", { model: "stops amid its stream", ...ONE }, hangsUp],
    ["clients that hang up amid a stream of three calls", { model: "stops in parts", ...THREE }, hangsUp],
    ["upstreams that break off amid a stream", { model: "breaks off amid its stream", ...ONE }, endsWith(200)],
    ["upstreams that break off before a text", { model: "breaks off before its text", ...ONE }, endsWith(502)],
    ["upstreams that break off amid an answer", { model: "breaks off amid an answer", prompt: "p" }, endsWith(502)],
    ["three calls of which each breaks off", { model: "breaks off in parts", ...THREE }, endsWith(200)],
    ["upstreams without an answer in time", { model: "too slow at all", ...ONE }, endsWith(504)],
    ["upstreams that fall silent", { model: "too slow amid its stream", ...ONE }, endsWith(200)],
  ]) {
    test(`${REQUESTS} ${what}: nothing`, async () => {
      await ask(40, body, act);
      const before = await gateway.isolate.held();
      await ask(REQUESTS, body, act);
      const after = await heldLittleMore(gateway.isolate, before, REQUESTS / 4);
      // Its memory grows by leaps, which a busier moment than before may need, once.
      const more = after.bufferBytes - before.bufferBytes;
      assert.ok(more < MEGABYTE, `${more} bytes more in buffers`);
    });
  }

  async function ask(count, body, act) {
    for (let asked = 0; asked < count; asked += 20) {
      const calls = Array.from({ length: 20 }, () => startCall(gateway.port, completionCall(gateway.key, body)));
      await Promise.all(calls.map(act));
      await eventually("the upstream's calls to end", () => (gateway.upstream.underWay().length === 0 ? true : undefined));
    }
  }
});
