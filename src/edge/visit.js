// What one request needs of the runtime: one crossing where Rust alone would need many, and calls that Rust can wait for.
import { Upstream, GONE, TIMEOUT, readToEnd } from "./upstream.js";
import { pump } from "./pump.js";
import { Runner } from "./runner.js";

// How long a ledger may take to be told something that nobody waits for.
const TELL_TIMEOUT_MS = 5000;
// The pauses after calls that failed.
const TELL_AGAIN_MS = [100, 1000, 4000];

// The headers of a request that concern the gateway, in the order of its `Head`. A completion needs the first of them.
const HEADERS = [
  "authorization",
  "content-type",
  "content-encoding",
  "x-request-id",
  "x-completions-format",
  "origin",
  "traceparent",
  "access-control-request-headers",
  "if-match",
  "if-none-match",
];
const OF_COMPLETIONS = 7;

// Where a call goes and its headers cross as one string, name and value in turn, a line each: neither can hold a line feed.
function headOf(lines) {
  const parts = lines.split("\n");
  const headers = {};
  for (let i = 1; i + 1 < parts.length; i += 2) headers[parts[i]] = parts[i + 1];
  return { destination: parts[0], headers };
}

// The headers of answers by their number: an object that has them all, and the names of those whose values are left open.
const shapes = [];

export function learnHeaders(shape, pairs) {
  const all = {};
  const open = [];
  for (const [name, value] of JSON.parse(pairs)) {
    all[name] = value;
    if (value === null) open.push(name);
  }
  shapes[shape] = { all, open };
}

// The headers of an answer. The values that its shape leaves open cross as one string, a line each.
function headersOf(shape, lines) {
  const { all, open } = shapes[shape];
  const headers = { ...all };
  const values = lines.split("\n");
  for (let i = 0; i < open.length; i += 1) headers[open[i]] = values[i];
  return headers;
}

const textOf = (error) => String(error?.message ?? error);

export function randomBytes(buffer) {
  crypto.getRandomValues(buffer);
}

// A way to the ledger of a tenant.
function ledgerOf(env, tenant) {
  const namespace = env.LEDGER;
  if (!namespace) throw "there is no binding LEDGER";
  return namespace.get(namespace.idFromName(tenant));
}

// The same promise, but it is waited for at most so long. `after` sets a deadline, and returns what lifts it.
function within(after, ms, promise) {
  return new Promise((resolve, reject) => {
    const inTime = after(ms, () => reject(TIMEOUT));
    const settle = (act) => (value) => {
      inTime();
      act(value);
    };
    promise.then(settle(resolve), settle(reject));
  });
}

// A deadline with a timer of its own.
function afterTimer(ms, act) {
  const timer = setTimeout(act, ms);
  return () => clearTimeout(timer);
}

// Writes the line of a request that has ended into the log, if it is wanted there, and a data point into the dataset that
// is bound as ANALYTICS, if one is.
function tellLog(env, line, isLogged) {
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
    console.warn(`a data point was not taken: ${textOf(error)}`);
  }
}

// Deadlines of one request over one timer of the runtime: setting a timer costs more than most of what a request does,
// and nearly every deadline is over long before it is due.
class Clock {
  // At most so long: deadlines that are farther off than that are not worth a timer each.
  static #LONGEST_MS = 10_000;
  #deadlines = new Set();
  #timer;
  #dueMs = Infinity;

  // Calls `act` in so many milliseconds, unless what it returns is called before. One that `lasts` outlives the others.
  after(ms, act, lasts = false) {
    const now = Date.now();
    const deadline = { atMs: now + ms, act, lasts };
    this.#deadlines.add(deadline);
    this.#arm(deadline.atMs, now);
    return () => this.#deadlines.delete(deadline);
  }

  // Forgets all deadlines but those that last.
  clear() {
    for (const deadline of this.#deadlines) if (!deadline.lasts) this.#deadlines.delete(deadline);
  }

  stop() {
    this.#deadlines.clear();
    clearTimeout(this.#timer);
    this.#dueMs = Infinity;
  }

  // A timer that rings too early is as good: it looks for what is due, and is set again.
  #arm(atMs, now) {
    const dueMs = Math.min(atMs, now + Clock.#LONGEST_MS);
    if (dueMs >= this.#dueMs) return;
    clearTimeout(this.#timer);
    this.#dueMs = dueMs;
    this.#timer = setTimeout(() => this.#ring(), Math.max(dueMs - now, 0));
  }

  #ring() {
    this.#dueMs = Infinity;
    const now = Date.now();
    for (const deadline of this.#deadlines) {
      if (deadline.atMs > now) continue;
      this.#deadlines.delete(deadline);
      deadline.act();
    }
    let next = Infinity;
    for (const { atMs } of this.#deadlines) next = Math.min(next, atMs);
    if (next < Infinity) this.#arm(next, now);
  }
}

// One request, from its coming to the end of its answer.
export class Visit {
  // The response, for the runtime.
  response;
  #request;
  #env;
  #ctx;
  #respond;
  #fail;
  #release;
  // What keeps the request's context: that it goes on, and each thing that a ledger is still to be told.
  #holds = 1;
  #isOver = false;
  #runner = new Runner((error) => {
    this.#fail(error);
    this.#end();
  });
  #clock = new Clock();
  // What ends a call whose headers have not come, or whose body goes on.
  #calls = [];
  #isGone = false;
  #whenGone = [];
  // The way to the ledger that was asked last, and whose that is.
  #ledger;
  #ledgerTenant;

  constructor(request, env, ctx) {
    this.#request = request;
    this.#env = env;
    this.#ctx = ctx;
    this.response = new Promise((respond, fail) => {
      this.#respond = respond;
      this.#fail = fail;
    });
    const { signal } = request;
    signal.addEventListener("abort", this.#leave);
    if (signal.aborted) this.#leave();
  }

  // The client goes away.
  #leave = () => {
    this.#isGone = true;
    this.#keepContext();
    this.cancelCalls();
    for (const act of this.#whenGone) act();
  };

  // Whether the client went away, which ends every read and is no fault of an upstream.
  get isGone() {
    return this.#isGone;
  }

  whenGone(act) {
    if (this.#isGone) queueMicrotask(act);
    else this.#whenGone.push(act);
  }

  after(ms, act) {
    return this.#clock.after(ms, act);
  }

  // The same promise, but it is waited for at most so long.
  within(ms, promise, lasts) {
    return within((ms, act) => this.#clock.after(ms, act, lasts), ms, promise);
  }

  waitUntil(promise) {
    this.#ctx.waitUntil(promise);
  }

  // The task that waits for what is asked for below, once it has to wait.
  begin(task) {
    this.#runner.begin(task);
  }

  // The answer is complete.
  #end = () => {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#clock.clear();
    // Else the runtime would hold the listener, and all that it holds, until its next full collection, which is long.
    this.#request.signal.removeEventListener("abort", this.#leave);
    this.#letGo();
  };

  // Keeps the request's context alive until the last has let go. Without, the runtime drops it with the answer, or as soon
  // as the client goes away, and with it, unfinished, whatever the Worker was waiting for: its memory would never be
  // given back, and nobody would settle.
  #keepContext() {
    if (!this.#release) this.#ctx.waitUntil(new Promise((release) => (this.#release = release)));
  }

  // The last who lets go leaves nothing of the request.
  #letGo() {
    this.#holds -= 1;
    if (this.#holds > 0) return;
    this.#clock.stop();
    this.#release?.();
  }

  // The head: method, path, query, and then those headers, each with a mark before it if it is there.
  head() {
    const { method, url, headers } = this.#request;
    const path = url.indexOf("/", url.indexOf("//") + 2);
    const query = url.indexOf("?", path);
    const pathname = url.slice(path, query < 0 ? undefined : query);
    const names = pathname === "/v1/completions" && method === "POST" ? OF_COMPLETIONS : HEADERS.length;
    let head = `${method}\n${pathname}\n${query < 0 ? "" : url.slice(query + 1)}`;
    for (let i = 0; i < names; i += 1) {
      const value = headers.get(HEADERS[i]);
      head += value === null ? "\n" : `\n=${value}`;
    }
    return head;
  }

  // The request's body, if it is at most `limit` bytes long.
  body(wait, limit) {
    this.#runner.tell(wait, readToEnd(this.#request, limit));
  }

  // An answer that is all there.
  answer(status, shape, headers, body) {
    this.#respond(new Response(body, { status, headers: headersOf(shape, headers) }));
    this.#end();
  }

  // A stream that is all there: it goes out without a length.
  answerChunks(status, shape, headers, bytes) {
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(bytes);
        controller.close();
      },
    });
    this.answer(status, shape, headers, body);
  }

  // A stream: what is left of each of the transcoder's sources (null where nothing is) through `transcoder`, after
  // `first`. The times are those of the gateway's `Patience`, and for how long what comes gathers, in milliseconds.
  answerStream(status, shape, headers, first, sources, transcoder, [keepaliveMs, firstTokenMs, idleMs, gatherMs]) {
    const body = pump(first, sources, transcoder, this, this.#end, { keepaliveMs, firstTokenMs, idleMs, gatherMs });
    this.#respond(new Response(body, { status, headers: headersOf(shape, headers) }));
  }

  // Calls an upstream by its URL.
  callUpstream(wait, head, body, timeoutMs, limit) {
    const { destination, headers } = headOf(head);
    const send = (signal) => fetch(destination, { method: "POST", headers, body, redirect: "manual", signal });
    this.#runner.tell(wait, this.#call(send, timeoutMs, limit));
  }

  // Calls a model through the Worker's binding to Workers AI. A raw response comes whatever its status. The runtime
  // documents neither `signal` nor `extraHeaders`, and takes both (cloudflare/workerd, src/cloudflare/internal/ai-api.ts).
  callAi(wait, binding, head, body, timeoutMs) {
    const { destination: model, headers: extraHeaders } = headOf(head);
    const send = async (signal) => {
      const ai = this.#env[binding];
      if (!ai) throw `there is no binding ${binding}`;
      return ai.run(model, JSON.parse(body), { returnRawResponse: true, signal, extraHeaders });
    };
    this.#runner.tell(wait, this.#call(send, timeoutMs, 0));
  }

  // Calls an upstream and waits for its headers; where a whole answer of at most `limit` bytes is wanted, 0 if none is,
  // for that as well, so that the module is entered once for both. The call ends when the client goes away, at any time.
  // `send` is given the signal that ends it.
  #call(send, timeoutMs, limit) {
    if (this.#isGone) return Promise.reject(GONE);
    const controller = new AbortController();
    this.#calls.push(controller);
    const abort = () => controller.abort();
    let timedOut = false;
    const inTime = this.#clock.after(timeoutMs, () => {
      timedOut = true;
      abort();
    });
    const why = (error) => {
      if (this.#isGone) return GONE;
      return timedOut ? TIMEOUT : textOf(error);
    };
    const failed = (error) => {
      inTime();
      throw why(error);
    };
    const answered = (response) => {
      const upstream = new Upstream(response, this, abort);
      const done = () => {
        inTime();
        return upstream;
      };
      return upstream.readsAhead(limit) ? upstream.readAhead(limit, done, why) : done();
    };
    let sent;
    try {
      sent = send(controller.signal);
    } catch (error) {
      // Nothing may be thrown through the module, which called us.
      sent = Promise.reject(error);
    }
    return sent.then(answered, failed);
  }

  // Breaks off what is still going on of the request's calls.
  cancelCalls() {
    for (const controller of this.#calls) controller.abort();
  }

  // Resolves when an upstream has something to take; waits at most so long.
  ready(wait, upstream, waitMs) {
    this.#runner.tell(wait, upstream.ready(waitMs));
  }

  // All that an upstream says.
  readAll(wait, upstream, limit, waitMs) {
    this.#runner.tell(wait, upstream.readAll(limit, waitMs));
  }

  // Waits, but not for a client that is gone: resolves to whether it is still there.
  pause(wait, ms) {
    const paused = new Promise((resolve) => {
      const inTime = this.#clock.after(ms, () => resolve(!this.#isGone));
      this.whenGone(() => {
        inTime();
        resolve(false);
      });
    });
    this.#runner.tell(wait, paused);
  }

  sleep(wait, ms) {
    this.#runner.tell(wait, new Promise((resolve) => this.#clock.after(ms, resolve)));
  }

  secret(name) {
    const secret = this.#env[name];
    return typeof secret === "string" ? secret : undefined;
  }

  // The bytes under a key in KV, or null.
  kvGet(wait, key, cacheTtl) {
    this.#runner.tell(wait, this.#kv((kv) => kv.get(key, { type: "arrayBuffer", cacheTtl })));
  }

  kvPut(wait, key, value) {
    this.#runner.tell(wait, this.#kv((kv) => kv.put(key, value)));
  }

  kvDelete(wait, key) {
    this.#runner.tell(wait, this.#kv((kv) => kv.delete(key)));
  }

  // A page of names, and after them the cursor of the next one, empty if there is none.
  kvList(wait, prefix, cursor, limit) {
    const list = async (kv) => {
      const page = await kv.list({ prefix, limit, ...(cursor && { cursor }) });
      return [...page.keys.map(({ name }) => name), page.list_complete ? "" : page.cursor];
    };
    this.#runner.tell(wait, this.#kv(list));
  }

  async #kv(act) {
    if (!this.#env.KV) throw "there is no binding KV";
    return act(this.#env.KV);
  }

  // Resolves to whether the client's address may fail to authenticate again, where a limiter is bound.
  mayFailAgain(wait) {
    const limit = async () => {
      const { AUTH_LIMITER: limiter } = this.#env;
      if (!limiter) return true;
      const key = this.#request.headers.get("cf-connecting-ip") ?? "";
      return (await limiter.limit({ key })).success;
    };
    this.#runner.tell(wait, limit());
  }

  askLedger(wait, tenant, call, timeoutMs) {
    this.#runner.tell(wait, this.#callLedger(tenant, call, timeoutMs));
  }

  // Calls the ledger of a tenant; resolves to its reply as text.
  async #callLedger(tenant, call, timeoutMs, lasts) {
    if (this.#ledgerTenant !== tenant) {
      this.#ledger = ledgerOf(this.#env, tenant);
      this.#ledgerTenant = tenant;
    }
    try {
      return await this.within(timeoutMs, this.#ledger.ask(call), lasts);
    } catch (error) {
      // A way that failed once may never lead there again.
      this.#ledgerTenant = undefined;
      throw error;
    }
  }

  // Tells the ledger something that nobody waits for. A call that fails is made again: what is not settled would be
  // charged as it was reserved.
  async tellLedger(tenant, call) {
    this.#holds += 1;
    this.#keepContext();
    for (const pause of [0, ...TELL_AGAIN_MS]) {
      if (pause > 0) await scheduler.wait(pause);
      try {
        await this.#callLedger(tenant, call, TELL_TIMEOUT_MS, true);
        break;
      } catch (error) {
        console.warn(`the ledger of tenant ${tenant} was not told: ${textOf(error)}`);
      }
    }
    this.#letGo();
  }

  errand() {
    return new Errand(this.#env, this.#ctx);
  }

  // Renews a lease until all is done. Few requests take that long: the call is written when it is due.
  keepRenewed(tenant, lease, leaseMs) {
    const renew = () => {
      this.tellLedger(tenant, JSON.stringify({ renew: { lease, lease_ms: leaseMs } }));
      this.keepRenewed(tenant, lease, leaseMs);
    };
    this.#clock.after(Math.ceil(leaseMs / 3), renew);
  }

  tellLog(line, isLogged) {
    tellLog(this.#env, line, isLogged);
  }
}

// Something that is done in a request's context, whether it goes on or has ended.
class Errand {
  #env;
  #release;
  #runner = new Runner(() => this.end());

  constructor(env, ctx) {
    this.#env = env;
    ctx.waitUntil(new Promise((release) => (this.#release = release)));
  }

  begin(task) {
    this.#runner.begin(task);
  }

  sleep(wait, ms) {
    this.#runner.tell(wait, scheduler.wait(ms));
  }

  askLedger(wait, tenant, call, timeoutMs) {
    const ask = async () => within(afterTimer, timeoutMs, ledgerOf(this.#env, tenant).ask(call));
    this.#runner.tell(wait, ask());
  }

  end() {
    this.#release();
  }
}
