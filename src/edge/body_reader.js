// Reads the body of an upstream's stream: each piece as it comes, or, while they come faster than they can be handed on,
// what has piled up at once.
//
// A read brings at most one chunk of the upstream's transfer coding, however late the reader is. So a backlog would be
// paid for chunk by chunk, and a read costs more than all that is done with what it brings. A tee reads ahead: while one
// branch is pumped natively, without any JavaScript, the other one gathers, and gives all of it to a single read.

// Pieces are read into a buffer of this size.
const READ_BYTES = 4 * 1024;
// The buffer for what has piled up, and how far the branch that is pumped may get ahead of the one that is read.
const AHEAD_BYTES = 32 * 1024;
// So many reads in a row that did not have to wait are a backlog, and so is a piece that is large.
const QUICK_READS = 4;
const QUICK_MS = 3;
const LARGE_BYTES = 2048;
// A read that had to wait is followed by some that are not timed: half as many as have waited in a row, and so many at most.
// Asking for the time twice costs an event two per cent, and where each read waits the answer is known.
const UNTIMED_MOST = 7;
// How long a backlog may gather before it is read: this long at first, and longer while it lasts, which is as long as
// that brings several events. One or two are what an upstream brings that is merely brisk, and nothing holds them back.
const GATHER_MS = 4;
const GATHER_MOST_MS = 16;
const LASTING_BYTES = 1024;

// Buffers of both sizes that serve again, so many at most. They are plain data, and written before they are read.
const SPARES = 64;
const spares = new Map([READ_BYTES, AHEAD_BYTES].map((bytes) => [bytes, []]));
const take = (bytes) => spares.get(bytes).pop() ?? new ArrayBuffer(bytes);

// Takes a buffer back. One that a read has not given back has no bytes.
function give(buffer) {
  const free = spares.get(buffer.byteLength);
  if (free && free.length < SPARES) free.push(buffer);
}

// What a read of a body brings that has ended.
const END = { done: true };

// The runtime never lets go of what a body broke off with, nor that of the functions that were waiting for it, and so of
// all that the request held, until its stack has been made text.
export function letGo(error) {
  void error?.stack;
}

export class BodyReader {
  #body;
  #abort;
  #reader;
  #buffer = take(READ_BYTES);
  #ended = false;
  // When the last read that is timed began, and how many are not from now on; how many in a row did not have to wait, or
  // had to; and whether what comes is a backlog.
  #beganMs = 0;
  #untimed = 0;
  #quick = 0;
  #slow = 0;
  #isBacklog = false;
  // What pumps the other branch, once what comes is read ahead.
  #pumped;
  // How long what comes next gathers, backlog or not, and what ends that sooner: that the pumped branch has a buffer full,
  // or all.
  #gatherMs = 0;
  #leastMs = 0;
  #gathered = () => {};
  #isWhole = false;
  // How much of either branch has been read since, and what tells the pumped one that it may go on.
  #readBytes = 0;
  #pumpedBytes = 0;
  #caughtUp = () => {};

  // `abort` breaks the body off for good.
  constructor(body, abort) {
    this.#body = body;
    this.#abort = abort;
    this.#reader = body.getReader({ mode: "byob" });
  }

  // Begins the next read: `taken` makes bytes of what this resolves to. It is the runtime's own promise wherever it can be:
  // one of ours in between costs an event some per cent.
  read() {
    const gathered = this.#gatherMs > 0 && !this.#ended && this.#gather();
    return gathered ? gathered.then(() => this.#begin()) : this.#begin();
  }

  // The bytes that a read brought, or undefined at the end. They are good until the next read: the buffer is one and the
  // same.
  taken({ done, value }) {
    if (done) {
      this.#ended = true;
      if (value) give(value.buffer);
      return undefined;
    }
    this.#buffer = value.buffer;
    this.#judge(value.byteLength);
    if (this.#pumped) {
      this.#readBytes += value.byteLength;
      if (this.#readBytes >= this.#pumpedBytes) this.#caughtUp();
    }
    return value;
  }

  // From now on what comes gathers for so long, backlog or not.
  gather(ms) {
    this.#leastMs = ms;
    this.#gatherMs = Math.max(this.#gatherMs, ms);
  }

  // Reads all that is left, which nobody wants.
  async drain() {
    do this.#gatherMs = 0;
    while (!this.#pumped && this.taken(await this.read()) !== undefined);
    // Else the tee would keep for it what the other branch reads.
    if (this.#pumped) this.#reader.cancel().catch(letGo);
    this.#readBytes = Infinity;
    this.#caughtUp();
    await this.#pumped;
    give(this.#buffer);
  }

  cancel() {
    this.#ended = true;
    // Of two branches each would wait for the other one to be cancelled.
    if (this.#pumped) this.#abort();
    this.#reader.cancel().catch(letGo);
    this.#caughtUp();
    this.#gathered();
  }

  // Whether the next read finds a backlog, which is read ahead from the first time on.
  #judge(bytes) {
    const isLarge = bytes >= LARGE_BYTES;
    if (this.#untimed > 0) {
      this.#untimed -= 1;
      if (!isLarge) return;
    } else {
      const wasQuick = Date.now() - this.#beganMs <= QUICK_MS;
      this.#quick = wasQuick ? this.#quick + 1 : 0;
      this.#slow = wasQuick ? 0 : this.#slow + 1;
      this.#untimed = Math.min(this.#slow >> 1, UNTIMED_MOST);
    }
    let gatherMs = 0;
    if (this.#isBacklog) {
      this.#isBacklog = this.#slow === 0 && bytes >= LASTING_BYTES;
      if (this.#isBacklog) gatherMs = Math.min(2 * this.#gatherMs, GATHER_MOST_MS);
      else this.#quick = 0;
    } else if (this.#quick >= QUICK_READS || isLarge) {
      this.#isBacklog = true;
      this.#untimed = 0;
      gatherMs = GATHER_MS;
    }
    this.#gatherMs = Math.max(gatherMs, this.#leastMs);
  }

  // What is to be waited for before the next read, if anything is.
  #gather() {
    if (!this.#pumped) this.#readAhead();
    if (this.#isWhole || this.#readBytes < this.#pumpedBytes) return undefined;
    return new Promise((act) => {
      const timer = setTimeout(act, this.#gatherMs);
      this.#gathered = () => {
        clearTimeout(timer);
        act();
      };
    });
  }

  #begin() {
    if (this.#ended) return Promise.resolve(END);
    if (this.#untimed === 0) this.#beganMs = Date.now();
    return this.#reader.read(new Uint8Array(this.#buffer));
  }

  #readAhead() {
    this.#reader.releaseLock();
    const [near, far] = this.#body.tee();
    this.#reader = near.getReader({ mode: "byob" });
    give(this.#buffer);
    this.#buffer = take(AHEAD_BYTES);
    const { readable, writable } = new IdentityTransformStream();
    // Whoever reads the other branch is told.
    const broken = (error) => {
      letGo(error);
      this.#gathered();
    };
    far.pipeTo(writable).catch(broken);
    this.#pumped = this.#pump(readable.getReader({ mode: "byob" })).catch(broken);
  }

  // Pumps a branch, but never further ahead than AHEAD_BYTES and what the runtime holds on the way: a client that does
  // not read stops its upstream.
  async #pump(reader) {
    let buffer = take(AHEAD_BYTES);
    while (!this.#ended) {
      const { done, value } = await reader.readAtLeast(AHEAD_BYTES, new Uint8Array(buffer));
      // Less comes only at the end.
      this.#isWhole = done || value.byteLength < AHEAD_BYTES;
      this.#gathered();
      if (value) buffer = value.buffer;
      if (this.#isWhole) break;
      this.#pumpedBytes += value.byteLength;
      if (this.#readBytes < this.#pumpedBytes) await new Promise((act) => (this.#caughtUp = act));
    }
    give(buffer);
  }
}
