// What an isolate holds: a client that has gone leaves nothing behind, and a body is held once, however it came.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { after, before, suite, test } from "node:test";
import { completionCall, startGateway } from "./harness/gateway.mjs";
import { startCall } from "./harness/http_client.mjs";
import { residentBytes } from "./harness/processes.mjs";
import { answer, completion, events, silence, stream, textChunk } from "./harness/scripts.mjs";
import { eventually, within } from "./harness/wait.mjs";

const MEGABYTE = 1 << 20;

const fiftyEvents = stream(events(...Array(49).fill(textChunk("a token or two ")), textChunk("", "stop"), "[DONE]"));

suite("memory of workerd", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({ inspect: true, scripts: { good: answer(200, completion("ok")), "before headers": silence, stream: fiftyEvents } });
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
        // Left to itself the runtime collects when it has tens of megabytes.
        if (done % 100 === 0) for (const isolate of gateway.isolates) isolate.collect();
      }
    };
    await round(200);
    const more = await heldMore(24, () => round(1000));
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
