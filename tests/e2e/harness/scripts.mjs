// The scripts that tests choose from: each answers one request of the wire upstream.
import { gzipSync, constants as zlib, createGzip } from "node:zlib";
import { once } from "node:events";

const SSE = "text/event-stream";
const chunked = (type) => ({ "Content-Type": type, "Transfer-Encoding": "chunked" });
const EVENT_STREAM = chunked(SSE);

/** `data:` events, each with its blank line, out of objects or literal data. */
export function events(...data) {
  return data.map((one) => `data: ${typeof one === "string" ? one : JSON.stringify(one)}\n\n`).join("");
}

/** A chunk as an upstream of the completions dialect sends it. */
export function textChunk(text, finish = null, more = {}) {
  const { choice = {}, ...rest } = more;
  return {
    id: "cmpl-upstream",
    object: "text_completion",
    created: 1_700_000_000,
    model: "the-upstream's-own-name",
    choices: [{ index: 0, text, logprobs: null, finish_reason: finish, ...choice }],
    ...rest,
  };
}

/** A chunk as an upstream of the chat dialect sends it. */
export function chatChunk(delta, finish = null, more = {}) {
  const { choice = {}, ...rest } = more;
  return {
    id: "chatcmpl-upstream",
    object: "chat.completion.chunk",
    created: 1_700_000_000,
    model: "the-upstream's-own-name",
    choices: [{ index: 0, delta, finish_reason: finish, ...choice }],
    ...rest,
  };
}

export const USAGE = { prompt_tokens: 7, completion_tokens: 2, total_tokens: 9 };

/** A whole stream in one HTTP chunk, ended as HTTP asks. */
export function stream(body, type) {
  return pieces([body], type);
}

/** A whole stream, one byte an HTTP chunk: no reader can see more than one byte at a time. */
export function bytewise(body, type = SSE) {
  return async (exchange) => {
    await exchange.head(200, chunked(type));
    for (const byte of Buffer.from(body)) await exchange.chunk([byte]);
    await exchange.lastChunk();
  };
}

/** A whole stream in HTTP chunks of lengths that have nothing to do with what is in it. */
export function oddPieces(body, type) {
  const bytes = Buffer.from(body);
  const cuts = [];
  for (let at = 0, length = 1; at < bytes.length; at += length, length = (length * 7) % 31) cuts.push(bytes.subarray(at, at + length));
  return pieces(cuts, type);
}

/** A whole stream in these HTTP chunks. A piece may be a promise's maker: the script waits for it. */
export function pieces(list, type = SSE) {
  return async (exchange) => {
    await exchange.head(200, chunked(type));
    for (const piece of list) {
      if (typeof piece === "function") await piece(exchange);
      else await exchange.chunk(piece);
    }
    await exchange.lastChunk();
  };
}

/**
 * A stream that ends otherwise than HTTP asks: by RST, or by FIN in the midst of a chunked body. An RST throws
 * away what the other side has not read yet: `gate` says when it has.
 */
export function cut(body, how, gate) {
  return async (exchange) => {
    await exchange.head(200, EVENT_STREAM);
    if (body) await exchange.chunk(body);
    await gate?.opened;
    if (how === "truncated") {
      // Announces more bytes than it sends.
      await exchange.send("ff\r\ndata: {");
      await exchange.close();
    } else if (how === "no last chunk") {
      await exchange.close();
    } else {
      await exchange.reset();
    }
  };
}

/** A stream without a length, ended by closing the connection: no client can tell whether it was cut. */
export function closeDelimited(body) {
  return async (exchange) => {
    await exchange.head(200, { "Content-Type": "text/event-stream", Connection: "close" });
    await exchange.send(body);
    await exchange.close();
  };
}

/** A gzip'd stream, flushed after each event, as a proxy before an upstream compresses it. */
export function gzipStream(list) {
  return async (exchange) => {
    await exchange.head(200, { ...EVENT_STREAM, "Content-Encoding": "gzip" });
    const gzip = createGzip({ flush: zlib.Z_SYNC_FLUSH });
    const forwarded = [];
    gzip.on("data", (bytes) => forwarded.push(exchange.chunk(bytes)));
    for (const piece of list) gzip.write(piece);
    gzip.end();
    await once(gzip, "end");
    await Promise.all(forwarded);
    await exchange.lastChunk();
  };
}

/** A response with a content-length. An object goes out as JSON, unless `headers` say otherwise. */
export function answer(status, body = "", headers = {}) {
  return async (exchange) => {
    const bytes = Buffer.from(typeof body === "object" && !Buffer.isBuffer(body) ? JSON.stringify(body) : body);
    const type = typeof body === "object" ? "application/json" : "text/html";
    await exchange.head(status, { "Content-Type": type, "Content-Length": bytes.length, ...headers });
    await exchange.send(bytes);
  };
}

export function gzipAnswer(status, body) {
  return answer(status, gzipSync(JSON.stringify(body)), { "Content-Type": "application/json", "Content-Encoding": "gzip" });
}

/** Takes the request and never says a word; ends when the other side hangs up. */
export async function silence(exchange) {
  await exchange.closed;
}

export function completion(text, more = {}) {
  return {
    id: "cmpl-upstream",
    object: "text_completion",
    created: 1_700_000_000,
    model: "the-upstream's-own-name",
    choices: [{ index: 0, text, logprobs: null, finish_reason: "stop" }],
    usage: USAGE,
    ...more,
  };
}

export function chatCompletion(text, more = {}) {
  return {
    id: "chatcmpl-upstream",
    object: "chat.completion",
    created: 1_700_000_000,
    model: "the-upstream's-own-name",
    choices: [{ index: 0, message: { role: "assistant", content: text }, logprobs: null, finish_reason: "stop" }],
    usage: USAGE,
    ...more,
  };
}

/** One script for a whole answer and one for a stream. */
export function asAsked(whole, streamed) {
  return (exchange) => (exchange.request.json.stream ? streamed : whole)(exchange);
}

/** A piece for `pieces`: writes on for as long as anyone listens, at the pace of the reader. */
export function talkUntilGone(event) {
  return async (exchange) => {
    while (!exchange.isClosed()) {
      await exchange.chunk(event);
      await new Promise(setImmediate);
    }
  };
}
