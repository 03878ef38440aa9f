// Reads HTTP/1.1 requests off a socket: header names in the case they were sent, and whole bodies.
export class RequestParser {
  #buffer = Buffer.alloc(0);
  #ended = false;
  #wake = () => {};

  constructor(socket) {
    socket.on("data", (bytes) => {
      this.#buffer = Buffer.concat([this.#buffer, bytes]);
      this.#wake();
    });
    for (const event of ["end", "close"]) {
      socket.on(event, () => {
        this.#ended = true;
        this.#wake();
      });
    }
  }

  /** The next request, or null when the connection has ended. */
  async next() {
    const head = await this.#upTo("\r\n\r\n");
    if (head === null) return null;
    const [requestLine, ...headerLines] = head.split("\r\n");
    const [method, path] = requestLine.split(" ");
    const headers = headerLines.map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon), line.slice(colon + 1).trim()];
    });
    const header = (name) => headers.find(([key]) => key.toLowerCase() === name)?.[1];
    const body = header("transfer-encoding") ? await this.#chunked() : await this.#exactly(Number(header("content-length") ?? 0));
    if (body === null) return null;
    const text = body.toString("utf8");
    const json = parseOrUndefined(text);
    return { method, path, headers, header, body: text, json, model: json?.model };
  }

  async #chunked() {
    const pieces = [];
    for (;;) {
      const sizeLine = await this.#upTo("\r\n");
      if (sizeLine === null) return null;
      const size = Number.parseInt(sizeLine, 16);
      const piece = await this.#exactly(size + 2);
      if (piece === null) return null;
      if (size === 0) return Buffer.concat(pieces);
      pieces.push(piece.subarray(0, size));
    }
  }

  async #upTo(mark) {
    for (;;) {
      const at = this.#buffer.indexOf(mark);
      if (at >= 0) return this.#take(at + mark.length).subarray(0, at).toString("latin1");
      if (this.#ended) return null;
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }

  async #exactly(length) {
    while (this.#buffer.length < length) {
      if (this.#ended) return null;
      await new Promise((resolve) => (this.#wake = resolve));
    }
    return this.#take(length);
  }

  #take(length) {
    const taken = this.#buffer.subarray(0, length);
    this.#buffer = this.#buffer.subarray(length);
    return taken;
  }
}

function parseOrUndefined(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
