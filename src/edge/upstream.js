// An upstream's answer as the gateway reads it: whole, or piece by piece as it comes.
import { BodyReader, letGo } from "./body_reader.js";

// A body of unknown length is read into a buffer that begins with this many bytes.
const FIRST_BYTES = 4096;
// How long a body that has said all may take to end, so that its connection can serve again.
const DRAIN_MS = 1000;
// The content type of answers that are read ahead.
const WHOLE = "application/json";
// Thrown as they stand; the Rust side compares.
const TOO_LONG = "too long";
export const TIMEOUT = "timeout";
export const GONE = "gone";

const asBytes = (buffer) => new Uint8Array(buffer);

// The bytes of a request or response, if they are at most `limit`.
export function readToEnd(message, limit) {
  const { headers } = message;
  const length = headers.get("content-length");
  // What is compressed is longer than it says. The body's stream is not even made here.
  if (length !== null && Number(length) <= limit && headers.get("content-encoding") === null) {
    return message.arrayBuffer().then(asBytes);
  }
  const { body } = message;
  return body ? readPieces(body.getReader(), Number(length ?? 0), limit) : Promise.resolve(new Uint8Array(0));
}

// Reads a stream to its end. `length` is what its content-length says, if anything. Every piece is copied into one
// buffer at once: kept as it is, a piece of one byte would hold the page that it came in.
async function readPieces(reader, length, limit) {
  const tooLong = () => {
    reader.cancel().catch(letGo);
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

// An upstream's answer, from its headers on.
export class Upstream {
  #response;
  #visit;
  #abort;
  #body;
  // A read that is under way, and what it brought: kept until somebody takes it.
  #reading;
  #waiting;
  #piece;
  #all;

  // `abort` breaks the call off.
  constructor(response, visit, abort) {
    this.#response = response;
    this.#visit = visit;
    this.#abort = abort;
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

  // Reads the body, if there is one.
  get #reader() {
    if (!this.#body) {
      const { body } = this.#response;
      if (body) this.#body = new BodyReader(body, this.#abort);
    }
    return this.#body;
  }

  // An answer without a body has ended.
  #read() {
    return this.#reader?.read() ?? Promise.resolve();
  }

  // What comes from now on gathers for so long, to be read at once.
  gather(ms) {
    this.#reader?.gather(ms);
  }

  // Resolves when `take` has something; waits at most so long. Whoever does not wait to the end loses nothing.
  ready(waitMs) {
    if (this.#piece) return Promise.resolve();
    const keep = (result) => {
      this.#piece = { bytes: this.#body?.taken(result) };
      this.#reading = undefined;
    };
    const forget = (error) => {
      letGo(error);
      this.#reading = undefined;
      throw this.#visit.isGone ? GONE : error;
    };
    this.#reading ??= this.#read().then(keep, forget);
    // One clock for each read, however often it is asked for: what is asked later waits no longer than what was before.
    this.#waiting ??= this.#visit.within(waitMs, this.#reading).finally(() => (this.#waiting = undefined));
    return this.#waiting;
  }

  // The bytes that are ready, or undefined at the end.
  take() {
    const bytes = this.#piece?.bytes;
    this.#piece = undefined;
    return bytes;
  }

  // Waits for the next bytes: `taken` has them once this has resolved, and is given what this resolves to.
  next() {
    if (this.#piece) return Promise.resolve();
    return this.#reading ?? this.#read();
  }

  // The bytes that were waited for, or undefined at the end. They are good until the next are waited for: the buffer is
  // one and the same.
  taken(result) {
    return this.#piece ? this.take() : this.#body?.taken(result);
  }

  // Whether this is an answer that the gateway, which wants at most `limit` bytes of it, will read whole in any case.
  readsAhead(limit) {
    return limit > 0 && this.#response.ok && this.contentType.startsWith(WHOLE);
  }

  // Reads the whole answer, for `all` to have what came of it; resolves to what `done` makes then. `why` makes of an error
  // what the gateway is told.
  readAhead(limit, done, why) {
    const keep = (all) => {
      this.#all = all;
      return done();
    };
    const broke = (error) => {
      letGo(error);
      return keep(why(error));
    };
    return readToEnd(this.#response, limit).then(keep, broke);
  }

  // What was read ahead: its bytes, or why there are none, as text; undefined if it was not.
  get all() {
    return this.#all;
  }

  // All bytes, if they are at most `limit` and come in time.
  readAll(limit, waitMs) {
    const all = readToEnd(this.#response, limit).catch((error) => {
      letGo(error);
      throw this.#visit.isGone ? GONE : error;
    });
    return this.#visit.within(waitMs, all).catch((error) => {
      if (error === TIMEOUT) this.#abort();
      throw error;
    });
  }

  // The upstream has said all: what may still come is its transport's end mark, after which the connection can serve
  // again. One that does not end is broken off.
  release() {
    const drain = async () => {
      const timer = setTimeout(() => this.cancel(), DRAIN_MS);
      try {
        await this.#reading;
        await this.#reader?.drain();
      } catch (error) {
        // It broke, which is an end too.
        letGo(error);
      } finally {
        clearTimeout(timer);
      }
    };
    this.#visit.waitUntil(drain());
  }

  cancel() {
    if (this.#body) this.#body.cancel();
    else this.#response.body?.cancel().catch(letGo);
  }
}
