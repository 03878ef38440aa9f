// The least that a Worker costs which keeps what ours promises around an answer, whatever it makes of it: it reads the
// request, fetches with a request of its own that ends when the client leaves or a timer rings, is held until all is done,
// writes a line into the log, and sends the headers that every answer has. An answer is read whole and sent anew. A stream
// goes out natively through one branch of a tee, untouched and at once, while the other one gathers, and is read now and
// then. It checks, counts and rewrites nothing.
//
// Where an object is bound it is called before the fetch and after the answer, and does nothing.
import { DurableObject } from "cloudflare:workers";

const TIMEOUT_MS = 60_000;
const PIECE_BYTES = 32 * 1024;
const GATHER_MS = 16;
const HEADERS = ["authorization", "content-type", "content-encoding", "x-request-id", "x-completions-format", "origin", "traceparent"];

// The headers that every answer has, but for its type. Those that say where the limits stand come on top.
const ANSWERED = {
  "x-request-id": "req_0af7651916cd43dd8448eb211c80319c",
  "openai-version": "2020-10-01",
  "openai-processing-ms": "1",
  "server-timing": "upstream;dur=1",
  "access-control-expose-headers": "x-request-id, openai-version, openai-processing-ms, server-timing, retry-after, retry-after-ms",
  "x-upstream-attempts": "1",
};

export class EmptyObject extends DurableObject {
  ask(call) {
    return "";
  }
}

async function readAll(body) {
  const reader = body.getReader({ mode: "byob" });
  let buffer = new ArrayBuffer(PIECE_BYTES);
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, GATHER_MS));
    const { done, value } = await reader.read(new Uint8Array(buffer));
    if (done) return;
    buffer = value.buffer;
  }
}

export default {
  async fetch(request, env, ctx) {
    let release;
    ctx.waitUntil(new Promise((resolve) => (release = resolve)));
    const controller = new AbortController();
    const { signal } = request;
    const leave = () => controller.abort();
    signal.addEventListener("abort", leave);
    const timer = setTimeout(() => controller.abort(), TIMEOUT_MS);
    const object = env.EMPTY?.get(env.EMPTY.idFromName("bench"));
    const heads = HEADERS.map((name) => request.headers.get(name));
    const body = await request.arrayBuffer();
    await object?.ask("reserve");
    const upstream = await fetch(env.UPSTREAM + new URL(request.url).pathname, {
      method: "POST",
      headers: { "content-type": "application/json", traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" },
      body,
      signal: controller.signal,
    });
    const end = async (read) => {
      const whole = await read;
      await object?.ask("settle");
      clearTimeout(timer);
      signal.removeEventListener("abort", leave);
      release();
      return whole;
    };
    console.log(`${upstream.status} ${heads.length}`);
    const headers = { "content-type": upstream.headers.get("content-type"), ...ANSWERED };
    if (headers["content-type"].startsWith("text/event-stream")) {
      const [out, seen] = upstream.body.tee();
      ctx.waitUntil(end(readAll(seen)));
      return new Response(out, { headers });
    }
    const answer = await upstream.arrayBuffer();
    ctx.waitUntil(end());
    return new Response(answer, { headers });
  },
};
