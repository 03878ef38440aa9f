// A client that sees the wire: exact header names, body bytes as they come, unclean ends, and a hang-up by RST.
import { once } from "node:events";
import { request as httpRequest } from "node:http";
import { within } from "./wait.mjs";

/**
 * Sends one request on a connection of its own. `body` is text, bytes, or an array of pieces, which go out
 * chunked and without a content-length. Settles as soon as the response's head is there.
 */
export async function send(port, options) {
  const call = startCall(port, options);
  return within(call.response, `a response to ${options.method ?? "GET"} ${options.path}`, options.limitMs);
}

/** As `send`, for a caller that wants to hang up before any response. */
export function startCall(port, { method = "GET", path, headers = {}, body }) {
  const request = httpRequest({ host: "127.0.0.1", port, method, path, headers, agent: false });
  request.setNoDelay(true);
  const response = new Promise((resolve, reject) => {
    request.on("response", (incoming) => resolve(receive(incoming)));
    // A server may answer before it has read the whole body, and close: that write error is not a failure.
    request.on("error", (error) => reject(error));
  });
  response.catch(() => {});
  const sent = once(request, "finish");
  sent.catch(() => {});

  if (Array.isArray(body)) {
    for (const piece of body) request.write(piece);
    request.end();
  } else if (body !== undefined) {
    request.setHeader("content-length", Buffer.byteLength(body));
    request.end(body);
  } else {
    request.end();
  }
  return {
    response,
    /** Settles when the whole request has gone out. */
    sent,
    /** RST. */
    hangUp: () => request.socket.resetAndDestroy(),
    /** FIN: how a client goes that closes its connection, having read all that came. */
    close: () => request.socket.destroy(),
  };
}

function receive(incoming) {
  const pieces = [];
  let wake = () => {};
  incoming.on("data", (piece) => {
    pieces.push(piece);
    wake();
  });
  incoming.on("error", () => {});
  incoming.once("close", () => wake());
  const closed = once(incoming, "close").catch(() => {});
  const bytesSoFar = () => Buffer.concat(pieces);

  return {
    status: incoming.statusCode,
    headers: incoming.headers,
    /** The body so far, as text; an incomplete character at its end shows as U+FFFD. */
    textSoFar: () => bytesSoFar().toString("utf8"),
    /** The whole body. `clean` says whether HTTP's own framing ended it. */
    async bytes(limitMs) {
      await within(closed, "the end of a response's body", limitMs);
      return bytesSoFar();
    },
    async text(limitMs) {
      return (await this.bytes(limitMs)).toString("utf8");
    },
    async json() {
      return JSON.parse(await this.text());
    },
    clean: () => incoming.complete,
    /** Settles when the body so far contains `part`; fails if the body ends without it. */
    async contains(part) {
      const seen = (async () => {
        while (!bytesSoFar().includes(part)) {
          if (incoming.closed) throw new Error(`the body ended without ${JSON.stringify(part)}: ${bytesSoFar()}`);
          await new Promise((resolve) => (wake = resolve));
        }
      })();
      await within(seen, `${JSON.stringify(part)} in the body so far`);
    },
    /** Calls `act` with each further piece of the body, as it is read. */
    onPiece: (act) => void incoming.on("data", act),
    /** Reads no more, and again. */
    pause: () => incoming.pause(),
    resume: () => incoming.resume(),
    hangUp: () => incoming.socket.resetAndDestroy(),
    close: () => incoming.socket.destroy(),
  };
}
