// The JavaScript beside the Worker: what would cost many crossings from Rust costs one from here.

// A fetched body is read in pieces of at most this many bytes.
const READ_BYTES = 16 * 1024;
// How long a body that has said all may take to end, so that its connection can serve again.
const DRAIN_MS = 1000;
// Thrown as it stands; the Rust side compares.
const TOO_LONG = "too long";
const TIMEOUT = "timeout";
const GONE = "gone";

// Headers cross as one string, name and value in turn, a line each: neither can hold a line feed.
function pairs(lines) {
  const parts = lines.split("\n");
  const headers = [];
  for (let i = 0; i + 1 < parts.length; i += 2) headers.push([parts[i], parts[i + 1]]);
  return headers;
}

// Reads a stream to its end. `length` is what its content-length says, if anything.
async function readToEnd(reader, length, limit) {
  if (length > limit) {
    reader.cancel().catch(() => {});
    throw TOO_LONG;
  }
  const chunks = [];
  let total = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    total += value.byteLength;
    if (total > limit) {
      reader.cancel().catch(() => {});
      throw TOO_LONG;
    }
    chunks.push(value);
  }
  if (chunks.length === 1) return chunks[0];
  const whole = new Uint8Array(total);
  let offset = 0;
  for (const chunk of chunks) {
    whole.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return whole;
}

const lengthOf = (headers) => Number(headers.get("content-length") ?? 0);

export function randomBytes(buffer) {
  crypto.getRandomValues(buffer);
}

// What of a request's head concerns the gateway, in the order of its `Head`.
export function readHead(request) {
  const { headers } = request;
  const { pathname } = new URL(request.url);
  return [
    request.method,
    pathname,
    headers.get("authorization"),
    headers.get("content-type"),
    headers.get("content-encoding"),
    headers.get("x-request-id"),
    headers.get("x-completions-format"),
    headers.get("origin"),
    headers.get("access-control-request-headers"),
  ];
}

export async function readBody(request, limit) {
  if (!request.body) return new Uint8Array(0);
  return readToEnd(request.body.getReader(), lengthOf(request.headers), limit);
}

export function respond(status, headers, body) {
  return new Response(body, { status, headers: pairs(headers) });
}

// An upstream's answer, from its headers on.
export class Upstream {
  #response;
  #reader;
  #buffer = new ArrayBuffer(READ_BYTES);
  #ctx;

  constructor(response, ctx) {
    this.#response = response;
    this.#ctx = ctx;
  }

  get status() {
    return this.#response.status;
  }

  get contentType() {
    return this.#response.headers.get("content-type") ?? "";
  }

  // Milliseconds until a retry makes sense, or undefined. `retry-after` is seconds or a date (RFC 9110, 10.2.3).
  get retryAfterMs() {
    const ms = this.#response.headers.get("retry-after-ms");
    if (ms !== null && Number(ms) >= 0) return Number(ms);
    const after = this.#response.headers.get("retry-after");
    if (after === null) return undefined;
    const delay = Number.isNaN(Number(after)) ? Date.parse(after) - Date.now() : Number(after) * 1000;
    return Number.isNaN(delay) ? undefined : Math.max(delay, 0);
  }

  // The next bytes, or undefined at the end. They are good until the next read: the buffer is one and the same.
  async read() {
    if (!this.#response.body) return undefined;
    this.#reader ??= this.#response.body.getReader({ mode: "byob" });
    const { done, value } = await this.#reader.read(new Uint8Array(this.#buffer));
    if (done) return undefined;
    this.#buffer = value.buffer;
    return value;
  }

  async readAll(limit) {
    if (!this.#response.body) return new Uint8Array(0);
    this.#reader = this.#response.body.getReader();
    return readToEnd(this.#reader, lengthOf(this.#response.headers), limit);
  }

  // The upstream has said all: what may still come is its transport's end mark, after which the connection can serve
  // again. One that does not end is broken off.
  release() {
    const drain = async () => {
      const timer = setTimeout(() => this.cancel(), DRAIN_MS);
      try {
        while ((await this.read()) !== undefined);
      } catch {
        // It broke, which is an end too.
      } finally {
        clearTimeout(timer);
      }
    };
    this.#ctx.waitUntil(drain());
  }

  cancel() {
    const cancelled = this.#reader ? this.#reader.cancel() : this.#response.body?.cancel();
    cancelled?.catch(() => {});
  }
}

// Calls an upstream and waits for its headers. The call ends when the client goes away, at any time.
export async function callUpstream(url, headers, body, timeoutMs, request, ctx) {
  const controller = new AbortController();
  const client = request.signal;
  if (client.aborted) throw GONE;
  client.addEventListener("abort", () => controller.abort());
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    controller.abort();
  }, timeoutMs);
  try {
    const init = { method: "POST", headers: pairs(headers), body, redirect: "manual", signal: controller.signal };
    return new Upstream(await fetch(url, init), ctx);
  } catch (error) {
    if (client.aborted) throw GONE;
    throw timedOut ? TIMEOUT : String(error?.message ?? error);
  } finally {
    clearTimeout(timer);
  }
}

// A body that is all there, and yet a stream: it goes out without a length.
export function streamOf(bytes) {
  return new ReadableStream({
    start(controller) {
      controller.enqueue(bytes);
      controller.close();
    },
  });
}

// The pump: one call into the transcoder for each piece of the upstream's body, when the client wants more, and not
// before. A piece that completes no chunk is followed by the next; nothing is gathered, nothing is held back.
export function pump(first, upstream, transcoder) {
  let live = true;
  const stop = () => {
    live = false;
    transcoder.free();
  };
  return new ReadableStream(
    {
      start(controller) {
        controller.enqueue(first);
      },
      async pull(controller) {
        for (;;) {
          let bytes;
          let broken = false;
          try {
            bytes = await upstream.read();
          } catch {
            broken = true;
          }
          // The client went away while we waited.
          if (!live) return;
          let out;
          try {
            out = bytes === undefined ? transcoder.end(broken) : transcoder.push(bytes);
          } catch (error) {
            // Only a trap in the module can throw here. The client must see a broken stream, not an ended one.
            live = false;
            upstream.cancel();
            throw error;
          }
          if (out.byteLength > 0) controller.enqueue(out);
          if (transcoder.over) {
            if (transcoder.failed) upstream.cancel();
            else upstream.release();
            controller.close();
            stop();
            return;
          }
          if (out.byteLength > 0) return;
        }
      },
      cancel() {
        if (!live) return;
        upstream.cancel();
        stop();
      },
    },
    { highWaterMark: 0 },
  );
}
