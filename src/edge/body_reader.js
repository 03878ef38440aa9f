// Reads the body of an upstream's stream: each piece as it comes, or, while they come faster than they can be handed on,
// what has piled up at once.
//
// A read brings at most one chunk of the upstream's transfer coding, however late the reader is. So a backlog would be
// paid for chunk by chunk, and a read costs more than all that is done with what it brings. A tee reads ahead: while one
// branch is pumped natively, without any JavaScript, the other one gathers, and gives all of it to a single read.

// Pieces are read into a buffer of this size.
const READ_BYTES = 16 * 1024;
// So many reads in a row that did not have to wait are a backlog. A piece that is large stands for several.
const QUICK_READS = 4;
const QUICK_MS = 3;
const LARGE_BYTES = 1024;
// The buffer for what has piled up, and how far the branch that is pumped may get ahead of the one that is read.
const AHEAD_BYTES = 32 * 1024;
// How long a backlog may gather before it is read.
const GATHER_MS = 4;

export class BodyReader {
  #body;
  #abort;
  #reader;
  #buffer = new ArrayBuffer(READ_BYTES);
  #ended = false;
  // How many reads in a row did not have to wait.
  #quick = 0;
  // Whether what comes is read ahead, and whether there was a backlog when it was read last.
  #isAhead = false;
  #gathers = false;
  // How much has been read since, and what the branch that is pumped waits for.
  #readBytes = 0;
  #caughtUp;

  // `abort` breaks the body off for good.
  constructor(body, abort) {
    this.#body = body;
    this.#abort = abort;
    this.#reader = body.getReader({ mode: "byob" });
  }

  // The next bytes, or undefined at the end. They are good until the next read: the buffer is one and the same.
  async read() {
    if (this.#ended) return undefined;
    if (this.#gathers) await scheduler.wait(GATHER_MS);
    const beganMs = Date.now();
    const { done, value } = await this.#reader.read(new Uint8Array(this.#buffer));
    this.#ended = done;
    if (done) return undefined;
    this.#buffer = value.buffer;
    const waitedMs = Date.now() - beganMs;
    if (this.#isAhead) this.#follow(value.byteLength, waitedMs);
    else this.#judge(value.byteLength, waitedMs);
    return value;
  }

  cancel() {
    this.#ended = true;
    // Of two branches each would wait for the other one to be cancelled.
    if (this.#isAhead) this.#abort();
    this.#reader.cancel().catch(() => {});
    this.#caughtUp?.act();
  }

  #judge(bytes, waitedMs) {
    const pieces = bytes < LARGE_BYTES ? 1 : QUICK_READS / 2;
    this.#quick = waitedMs <= QUICK_MS ? this.#quick + pieces : 0;
    if (this.#quick >= QUICK_READS) this.#readAhead();
  }

  #readAhead() {
    this.#isAhead = true;
    this.#gathers = true;
    this.#reader.releaseLock();
    const [near, far] = this.#body.tee();
    this.#reader = near.getReader({ mode: "byob" });
    this.#buffer = new ArrayBuffer(AHEAD_BYTES);
    const { readable, writable } = new IdentityTransformStream();
    far.pipeTo(writable).catch(() => {});
    // However it ends, whoever reads the other branch is told.
    this.#pump(readable.getReader({ mode: "byob" })).catch(() => {});
  }

  #follow(bytes, waitedMs) {
    this.#gathers = waitedMs <= QUICK_MS;
    this.#readBytes += bytes;
    if (this.#caughtUp && this.#readBytes >= this.#caughtUp.bytes) this.#caughtUp.act();
  }

  // Pumps a branch, but never further ahead than AHEAD_BYTES and what the runtime holds on the way: a client that does
  // not read stops its upstream.
  async #pump(reader) {
    let buffer = new ArrayBuffer(AHEAD_BYTES);
    let pumped = 0;
    for (;;) {
      const { done, value } = await reader.readAtLeast(AHEAD_BYTES, new Uint8Array(buffer));
      if (done || this.#ended) return;
      buffer = value.buffer;
      pumped += value.byteLength;
      if (this.#readBytes < pumped) await new Promise((act) => (this.#caughtUp = { bytes: pumped, act }));
    }
  }
}
