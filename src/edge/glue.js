// The JavaScript beside the Worker: what would cost many crossings from Rust costs one from here.

// A fetched body is read in pieces of at most this many bytes.
const READ_BYTES = 16 * 1024;
// A body of unknown length is read into a buffer that begins with this many bytes.
const FIRST_BYTES = 4096;
// How long a body that has said all may take to end, so that its connection can serve again.
const DRAIN_MS = 1000;
// What a client is sent while its upstream is silent: a comment, which no client takes for an event.
const KEEPALIVE = new TextEncoder().encode(": keepalive\n\n");
// How long a ledger may take to be told something that nobody waits for.
const TELL_TIMEOUT_MS = 5000;
// The pauses after calls that failed.
const TELL_AGAIN_MS = [100, 1000, 4000];
// Thrown as they stand; the Rust side compares.
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

// Reads a stream to its end. `length` is what its content-length says, if anything. Every piece is copied into one
// buffer at once: kept as it is, a piece of one byte would hold the page that it came in.
async function readToEnd(reader, length, limit) {
  const tooLong = () => {
    reader.cancel().catch(() => {});
    throw TOO_LONG;
  };
  if (length > limit) tooLong();
  let whole = new Uint8Array(Math.min(length || FIRST_BYTES, limit));
  let total = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return whole.subarray(0, total);
    const end = total + value.byteLength;
    if (end > limit) tooLong();
    if (end > whole.byteLength) {
      const larger = new Uint8Array(Math.min(Math.max(end, 2 * whole.byteLength), limit));
      larger.set(whole.subarray(0, total));
      whole = larger;
    }
    whole.set(value, total);
    total = end;
  }
}

// The same promise, but it is waited for at most so long.
async function within(ms, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(TIMEOUT), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
    promise.catch(() => {});
  }
}

const lengthOf = (headers) => Number(headers.get("content-length") ?? 0);

export function randomBytes(buffer) {
  crypto.getRandomValues(buffer);
}

// What of a request's head concerns the gateway, in the order of its `Head`.
export function readHead(request) {
  const { headers } = request;
  const { pathname, search } = new URL(request.url);
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
    search.slice(1),
    headers.get("if-match"),
    headers.get("if-none-match"),
    headers.get("traceparent"),
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
  #ended = false;
  // A read that is under way, and what it brought: kept until somebody takes it.
  #reading;
  #waiting;
  #piece;
  // What a read failed with. It took the buffer with it, so that there is no other.
  #failure;
  #client;
  #ctx;

  constructor(response, client, ctx) {
    this.#response = response;
    this.#client = client;
    this.#ctx = ctx;
  }

  // Whether the client went away, which ends every read and is no fault of the upstream.
  get clientGone() {
    return this.#client.aborted;
  }

  whenClientGone(act) {
    if (this.#client.aborted) queueMicrotask(act);
    else this.#client.addEventListener("abort", act);
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
    const after = this.#response.headers.get("retry-after");
    let delay = Number.NaN;
    if (ms !== null && !Number.isNaN(Number(ms))) delay = Number(ms);
    else if (after !== null) delay = Number.isNaN(Number(after)) ? Date.parse(after) - Date.now() : Number(after) * 1000;
    return Number.isFinite(delay) ? Math.max(delay, 0) : undefined;
  }

  // The next bytes, or undefined at the end. They are good until the next read: the buffer is one and the same.
  async #read() {
    if (this.#failure) throw this.#failure;
    if (this.#ended || !this.#response.body) return undefined;
    this.#reader ??= this.#response.body.getReader({ mode: "byob" });
    const { done, value } = await this.#reader.read(new Uint8Array(this.#buffer)).catch((error) => this.#thrown(error));
    this.#ended = done;
    if (done) return undefined;
    this.#buffer = value.buffer;
    return value;
  }

  // Resolves when `take` has something; waits at most so long. Whoever does not wait to the end loses nothing.
  ready(waitMs) {
    if (this.#piece) return Promise.resolve();
    const keep = (bytes) => {
      this.#piece = { bytes };
      this.#reading = undefined;
    };
    const forget = (error) => {
      this.#reading = undefined;
      throw error;
    };
    this.#reading ??= this.#read().then(keep, forget);
    // One clock for each read, however often it is asked for: what is asked later waits no longer than what was before.
    this.#waiting ??= within(waitMs, this.#reading).finally(() => (this.#waiting = undefined));
    return this.#waiting;
  }

  // The bytes that are ready, or undefined at the end.
  take() {
    const bytes = this.#piece?.bytes;
    this.#piece = undefined;
    return bytes;
  }

  // The next bytes, or undefined at the end.
  async next() {
    if (!this.#piece && !this.#reading) return this.#read();
    if (!this.#piece) await this.#reading;
    return this.take();
  }

  async readAll(limit, waitMs) {
    if (!this.#response.body) return new Uint8Array(0);
    this.#reader = this.#response.body.getReader();
    const all = readToEnd(this.#reader, lengthOf(this.#response.headers), limit).catch((error) => this.#thrown(error));
    return within(waitMs, all).catch((error) => {
      if (error === TIMEOUT) this.cancel();
      throw error;
    });
  }

  #thrown(error) {
    // The runtime never lets go of what a body broke off with, nor that of the functions that were waiting for it, and so
    // of all that the request held, until its stack has been made text.
    void error?.stack;
    this.#failure = this.clientGone ? GONE : error;
    throw this.#failure;
  }

  // The upstream has said all: what may still come is its transport's end mark, after which the connection can serve
  // again. One that does not end is broken off.
  release() {
    const drain = async () => {
      const timer = setTimeout(() => this.cancel(), DRAIN_MS);
      try {
        while ((await this.next()) !== undefined);
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

// The calls of each request, so that all of them can be broken off.
const calls = new WeakMap();

// Breaks off what is still going on of a request's calls.
export function cancelCalls(request) {
  for (const controller of calls.get(request) ?? []) controller.abort();
}

// Calls an upstream and waits for its headers. The call ends when the client goes away, at any time. `send` is given
// the signal that ends it.
async function call(send, timeoutMs, request, ctx) {
  const controller = new AbortController();
  if (calls.has(request)) calls.get(request).push(controller);
  else calls.set(request, [controller]);
  const client = request.signal;
  if (client.aborted) throw GONE;
  client.addEventListener("abort", () => controller.abort());
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    controller.abort();
  }, timeoutMs);
  try {
    return new Upstream(await send(controller.signal), client, ctx);
  } catch (error) {
    if (client.aborted) throw GONE;
    throw timedOut ? TIMEOUT : String(error?.message ?? error);
  } finally {
    clearTimeout(timer);
  }
}

// Calls an upstream by its URL.
export function callUpstream(url, headers, body, timeoutMs, request, ctx) {
  const send = (signal) => fetch(url, { method: "POST", headers: pairs(headers), body, redirect: "manual", signal });
  return call(send, timeoutMs, request, ctx);
}

// Calls a model through the Worker's binding to Workers AI. A raw response comes whatever its status. The runtime
// documents neither `signal` nor `extraHeaders`, and takes both (cloudflare/workerd, src/cloudflare/internal/ai-api.ts).
export function callAi(env, binding, model, headers, body, timeoutMs, request, ctx) {
  const send = async (signal) => {
    if (!env[binding]) throw `there is no binding ${binding}`;
    const extraHeaders = Object.fromEntries(pairs(headers));
    return env[binding].run(model, JSON.parse(body), { returnRawResponse: true, signal, extraHeaders });
  };
  return call(send, timeoutMs, request, ctx);
}

// Waits, but not for a client that is gone: resolves to whether it is still there.
export async function pause(ms, request) {
  const { signal } = request;
  await new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
    if (signal.aborted) resolve();
  });
  return !signal.aborted;
}

// Writes the line of a request that has ended into the log, if it is wanted there, and a data point into the dataset that
// is bound as ANALYTICS, if one is.
export function record(env, line, isLogged) {
  if (isLogged) console.log(line);
  if (!env.ANALYTICS) return;
  const request = JSON.parse(line);
  const { tenant, key, model, target, dialect, ended, error, finish_reason: finishReason, route } = request;
  const blobs = [route, tenant, key, model, target, dialect, ended, error, finishReason].map((blob) => blob ?? "");
  const { status, attempts, prompt_tokens: prompt, completion_tokens: completion, estimated, stream } = request;
  const { headers_ms: headersMs, first_token_ms: firstTokenMs, total_ms: totalMs } = request;
  const counts = [status, attempts, prompt, completion, Number(estimated), Number(stream)];
  const times = [headersMs ?? -1, firstTokenMs ?? -1, totalMs];
  try {
    env.ANALYTICS.writeDataPoint({ indexes: [tenant ?? ""], blobs, doubles: [...counts, ...times] });
  } catch (error) {
    // A data point that is not taken is no reason to lose an answer.
    console.warn(`a data point was not taken: ${error?.message ?? error}`);
  }
}

// Keeps a request's context alive until the returned function is called. Without, the runtime drops the context as soon
// as the client goes away, and with it, unfinished, whatever the Worker was waiting for: its memory would never be
// given back, and nobody would settle.
export function hold(ctx) {
  let release;
  ctx.waitUntil(new Promise((resolve) => (release = resolve)));
  return release;
}

// A function that calls two.
export const both = (first, second) => () => {
  first();
  second();
};

// Asks the ledger of a tenant; resolves to its reply as text.
export async function askLedger(env, tenant, call, timeoutMs) {
  const namespace = env.LEDGER;
  if (!namespace) throw "there is no binding LEDGER";
  const controller = new AbortController();
  const asked = (async () => {
    const ledger = namespace.get(namespace.idFromName(tenant));
    const response = await ledger.fetch("https://ledger/", { method: "POST", body: call, signal: controller.signal });
    const text = await response.text();
    if (!response.ok) throw text;
    return text;
  })();
  return within(timeoutMs, asked).catch((error) => {
    if (error === TIMEOUT) controller.abort();
    throw error;
  });
}

// Tells the ledger something that nobody waits for. A call that fails is made again: what is not settled would be
// charged as it was reserved.
export function tellLedger(env, ctx, tenant, call) {
  const tell = async () => {
    for (const pause of TELL_AGAIN_MS) {
      try {
        return await askLedger(env, tenant, call, TELL_TIMEOUT_MS);
      } catch (error) {
        console.warn(`the ledger of tenant ${tenant} was not told: ${error?.message ?? error}`);
      }
      await scheduler.wait(pause);
    }
  };
  ctx.waitUntil(tell());
}

// Makes a call to a ledger again and again, until the returned function is called.
export function repeatToLedger(env, ctx, tenant, call, everyMs) {
  const timer = setInterval(() => tellLedger(env, ctx, tenant, call), everyMs);
  return () => clearInterval(timer);
}

// Does something in one transaction of a Durable Object's storage; what returns false leaves no trace.
export function transact(storage, act) {
  const undone = {};
  try {
    storage.transactionSync(() => {
      if (!act()) throw undone;
    });
  } catch (error) {
    if (error !== undone) throw error;
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

// The next piece of an upstream: `bytes` is undefined at its end.
async function nextOf(source, upstream) {
  try {
    return { source, upstream, bytes: await upstream.next(), broken: false };
  } catch {
    return { source, upstream, bytes: undefined, broken: true };
  }
}

// Reads several upstreams at once, each with at most one read under way: a function that resolves to whichever has
// something first. What has come waits in a queue: a race of promises would remember every piece in those that are slow.
function merge(upstreams) {
  const busy = new Set();
  const pieces = [];
  let wake = () => {};
  let taken;
  const read = async (source, upstream) => {
    pieces.push(await nextOf(source, upstream));
    wake();
  };
  return async () => {
    // Its bytes were good until now.
    busy.delete(taken);
    for (const [source, upstream] of upstreams) {
      if (busy.has(source)) continue;
      busy.add(source);
      read(source, upstream);
    }
    if (pieces.length === 0) await new Promise((resolve) => (wake = resolve));
    const piece = pieces.shift();
    taken = piece.source;
    return piece;
  };
}

// How silent a stream's upstreams are. `begin` and `end` enclose the times in which the client waits for them: a client
// that does not read keeps nobody waiting. One timer a stream, and nothing to pay for an event.
function watch({ keepaliveMs, firstTokenMs, idleMs }, { sources, keepalive, expire }) {
  const step = Math.max(Math.min(keepaliveMs || idleMs, firstTokenMs, idleMs) / 4, 10);
  // Since when the first text is waited for.
  let since = Date.now();
  // When each source was heard last; those that have begun to give text.
  const heard = new Map();
  const begun = new Set();
  let waits = false;
  let sent = since;
  const silence = (now) => (source) =>
    begun.has(source) ? now - (heard.get(source) ?? now) >= idleMs : now - since >= firstTokenMs;
  const look = () => {
    const now = Date.now();
    if (!waits) {
      for (const source of begun) heard.set(source, now);
      since = now;
      sent = now;
    } else if ([...sources()].some(silence(now))) {
      expire();
    } else if (keepaliveMs > 0 && now - sent >= keepaliveMs) {
      sent = now;
      keepalive();
    }
  };
  const timer = setInterval(look, step);
  return {
    begin: () => (waits = true),
    end: () => (waits = false),
    // A source was heard, with text for the client or without.
    hear(source, text) {
      const now = Date.now();
      heard.set(source, now);
      if (!text) return;
      begun.add(source);
      sent = now;
    },
    stop: () => clearInterval(timer),
  };
}

// The pump: one call into the transcoder for each piece of an upstream's body, when the client wants more, and not
// before. A piece that completes no chunk is followed by the next; nothing is gathered, nothing is held back. However
// the stream ends, the transcoder is told, and `release` is called, once.
//
// `sources` holds what is left of each of the transcoder's sources, null where nothing is.
export function pump(first, sources, transcoder, release, keepaliveMs, firstTokenMs, idleMs) {
  let live = true;
  let controller;
  const upstreams = new Map(sources.map((upstream, source) => [source, upstream]).filter(([, upstream]) => upstream));
  const [[source, any]] = upstreams;
  const next = upstreams.size === 1 ? () => nextOf(source, any) : merge(upstreams);
  const watcher = watch(
    { keepaliveMs, firstTokenMs, idleMs },
    {
      sources: () => upstreams.keys(),
      keepalive: () => controller.enqueue(KEEPALIVE.slice()),
      expire() {
        controller.enqueue(transcoder.expire());
        cancel();
        controller.close();
        stop();
      },
    },
  );
  for (const source of upstreams.keys()) if (transcoder.begun(source)) watcher.hear(source, true);
  const stop = () => {
    live = false;
    watcher.stop();
    transcoder.free();
    release();
  };
  const cancel = () => {
    for (const upstream of upstreams.values()) upstream.cancel();
  };
  const gone = () => {
    cancel();
    transcoder.gone();
    stop();
  };
  // The runtime tells the stream, and tells the request: whichever comes first.
  any.whenClientGone(() => {
    if (live) gone();
  });
  return new ReadableStream(
    {
      start(streamController) {
        controller = streamController;
        controller.enqueue(first);
      },
      async pull() {
        watcher.begin();
        for (;;) {
          const { source, upstream, bytes, broken } = await next();
          // The client went away while we waited.
          if (!live) return;
          if (broken && upstream.clientGone) return gone();
          let out;
          try {
            out = bytes === undefined ? transcoder.end(source, broken) : transcoder.push(source, bytes);
          } catch (error) {
            // Only a trap in the module can throw here. The client must see a broken stream, not an ended one.
            live = false;
            watcher.stop();
            cancel();
            release();
            throw error;
          }
          const hasText = out.byteLength > 0;
          if (hasText || transcoder.heard) watcher.hear(source, hasText);
          if (hasText) controller.enqueue(out);
          const { over } = transcoder;
          if (over || upstreams.size > 1) {
            // 0: it has more to say, 1: it has said all, 2: nobody wants what it would say.
            const progress = transcoder.progress(source);
            if (progress === 1) upstream.release();
            else if (progress === 2) upstream.cancel();
            if (progress !== 0) upstreams.delete(source);
          }
          if (over) {
            cancel();
            controller.close();
            stop();
            return;
          }
          if (hasText) {
            watcher.end();
            return;
          }
        }
      },
      cancel() {
        if (live) gone();
      },
    },
    { highWaterMark: 0 },
  );
}
