// A server that speaks HTTP/1.1 by hand, so that it can also speak it badly: every byte, every split, every
// pause and the way a connection ends are a script's choice.
import { createServer } from "node:net";
import { RequestParser } from "./request_parser.mjs";
import { within } from "./wait.mjs";

/**
 * `scripts`: model name, as the upstream sees it → `async (exchange) => …`. A script writes the whole response.
 * Where a script returns with the connection open, the connection takes a next request, as keep-alive does.
 * Not every dialect names the model in the body: see `addressee`.
 */
export async function startWireUpstream(scripts) {
  const requests = [];
  const waiting = [];
  const sockets = new Set();
  const failures = [];

  const record = (request) => {
    requests.push(request);
    for (const wake of waiting.splice(0)) wake();
  };

  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    const closed = new Promise((resolve) => socket.once("close", resolve));
    closed.then(() => sockets.delete(socket));
    socket.on("error", () => {});
    serve(socket, closed, scripts, record).catch((error) => {
      failures.push(error);
      socket.destroy();
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

  return {
    port: server.address().port,
    /** All that came, whomever it was for. */
    requests,
    origin: `http://127.0.0.1:${server.address().port}`,
    /** How many connections there are. */
    connections: () => sockets.size,
    /** The requests whose scripts have neither come to their end nor lost their connection. */
    underWay: () => requests.filter((request) => request.isUnderWay),
    requestsFor: (model) => requests.filter((request) => request.model === model),
    /** The `count`-th request for this model, waited for if it has not come yet. */
    async requestFor(model, count = 1) {
      const arrival = (async () => {
        for (;;) {
          const request = requests.filter((one) => one.model === model)[count - 1];
          if (request) return request;
          await new Promise((resolve) => waiting.push(resolve));
        }
      })();
      return within(arrival, `request ${count} for ${model} at the upstream`);
    },
    async stop() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
      // A script that broke is a broken test, whatever the Worker made of the connection that closed.
      if (failures.length > 0) throw failures[0];
    },
  };
}

async function serve(socket, closed, scripts, record) {
  const parser = new RequestParser(socket);
  for (let nth = 1; ; nth += 1) {
    const request = await parser.next();
    if (!request) return;
    request.nthOnConnection = nth;
    Object.assign(request, addressee(request));
    request.connectionClosed = (what = "the upstream's connection to close", limitMs) => within(closed, what, limitMs);
    record(request);
    const script = scripts[request.model];
    if (!script) throw new Error(`no script for ${request.method} ${request.path} with model ${request.model}`);
    request.at = Date.now();
    request.isUnderWay = true;
    const ended = () => (request.isUnderWay = false);
    closed.then(ended);
    try {
      await script(exchangeOn(socket, closed, request));
    } finally {
      ended();
    }
  }
}

/**
 * Whose script a request is for, and the path that the dialect wrote. A base URL may begin with the name, as in
 * `/=name/v1`, which is then no part of `path`, though of `wholePath`; the binding to Workers AI has the model in a
 * header of its own.
 */
function addressee({ path, header, model }) {
  const named = path.match(/^\/=([^/]+)(.*)$/);
  if (named) return { model: decodeURIComponent(named[1]), path: named[2], wholePath: path };
  return { model: header("cf-consn-model-id") ?? model, path, wholePath: path };
}

function exchangeOn(socket, closed, request) {
  const exchange = {
    request,
    isClosed: () => socket.destroyed,
    closed,
    /** Bytes exactly as given. Settles when the kernel has them, or the connection is gone. */
    send: (bytes) =>
      new Promise((resolve) => {
        if (socket.destroyed) return resolve();
        socket.write(bytes, () => resolve());
      }),
    /** A response head: a status, and headers as an object. */
    head: (status, headers = {}) => {
      const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
      return exchange.send(`HTTP/1.1 ${status} Scripted\r\n${lines.join("")}\r\n`);
    },
    /** One HTTP chunk of a chunked body. */
    chunk: (bytes) => {
      const data = Buffer.from(bytes);
      return exchange.send(Buffer.concat([Buffer.from(`${data.length.toString(16)}\r\n`), data, Buffer.from("\r\n")]));
    },
    lastChunk: () => exchange.send("0\r\n\r\n"),
    /** FIN: how a close-delimited body ends, and how a chunked one is cut off cleanly on TCP. */
    close: () => new Promise((resolve) => (socket.destroyed ? resolve() : socket.end(resolve))),
    /** RST. */
    reset: () => socket.resetAndDestroy(),
  };
  return exchange;
}
