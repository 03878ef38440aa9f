// The stream that a client reads: what its upstreams say, through the transcoder.
import { letGo } from "./body_reader.js";
import { trapped } from "./trap.js";

// What a client is sent while its upstream is silent: a comment, which no client takes for an event.
const KEEPALIVE = new TextEncoder().encode(": keepalive\n\n");

// Reads one upstream.
class Single {
  source;
  upstream;

  constructor([[source, upstream]]) {
    this.source = source;
    this.upstream = upstream;
  }

  next() {
    return this.upstream.next();
  }

  taken(result) {
    return this.upstream.taken(result);
  }
}

// Reads several upstreams at once, each with at most one read under way. What has come waits in a queue: a race of
// promises would remember every piece in those that are slow.
class Several {
  // Whose the last piece was.
  source;
  upstream;
  #upstreams;
  #busy = new Set();
  #pieces = [];
  #bytes;
  #wake = () => {};

  constructor(upstreams) {
    this.#upstreams = upstreams;
  }

  // Waits for whichever has something first.
  async next() {
    // Its bytes were good until now.
    this.#busy.delete(this.source);
    for (const [source, upstream] of this.#upstreams) {
      if (this.#busy.has(source)) continue;
      this.#busy.add(source);
      this.#read(source, upstream);
    }
    if (this.#pieces.length === 0) await new Promise((resolve) => (this.#wake = resolve));
    const { source, upstream, bytes, failure } = this.#pieces.shift();
    this.source = source;
    this.upstream = upstream;
    if (failure) throw failure.error;
    this.#bytes = bytes;
  }

  // Its bytes, or undefined at its end.
  taken() {
    return this.#bytes;
  }

  async #read(source, upstream) {
    const piece = { source, upstream };
    try {
      piece.bytes = upstream.taken(await upstream.next());
    } catch (error) {
      piece.failure = { error };
    }
    this.#pieces.push(piece);
    this.#wake();
  }
}

// How silent a stream's upstreams are; what they say may be heard `gatherMs` late. `begin` and `end` enclose the times in
// which the client waits for them: a client that does not read keeps nobody waiting. One timer a stream, and next to nothing
// to pay for an event: the time is asked for when the timer rings, and what was heard since the last time counts as heard
// then.
function watch({ keepaliveMs, firstTokenMs, idleMs, gatherMs }, { sources, keepalive, expire }) {
  const step = Math.max(Math.min(keepaliveMs || idleMs, firstTokenMs, idleMs) / 8, 10);
  // Since when the first text is waited for, and when the client was sent something last.
  let since = Date.now();
  let sent = since;
  // When each source was heard last that has begun to give text.
  const heard = new Map();
  // What has happened since the timer rang.
  const heardSince = new Set();
  let hasSent = false;
  const begun = new Set();
  let waits = false;
  const silence = (now) => (source) =>
    begun.has(source) ? now - heard.get(source) >= idleMs + gatherMs : now - since >= firstTokenMs;
  const look = () => {
    const now = Date.now();
    for (const source of waits ? heardSince : begun) heard.set(source, now);
    heardSince.clear();
    if (hasSent || !waits) sent = now;
    hasSent = false;
    if (!waits) {
      since = now;
    } else if ([...sources()].some(silence(now))) {
      expire();
    } else if (keepaliveMs > 0 && now - sent >= keepaliveMs + gatherMs) {
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
      heardSince.add(source);
      if (!text) return;
      begun.add(source);
      hasSent = true;
    },
    stop: () => clearInterval(timer),
  };
}

// The pump: one call into the transcoder for each piece of an upstream's body, when the client wants more, and not
// before. A piece that completes no chunk is followed by the next; nothing is held back, unless for `gatherMs` once there
// was text. However the stream ends, the transcoder is told, and `release` is called, once.
//
// `sources` holds what is left of each of the transcoder's sources, null where nothing is.
export function pump(first, sources, transcoder, visit, release, times) {
  const { gatherMs } = times;
  let live = true;
  let controller;
  const upstreams = new Map(sources.map((upstream, source) => [source, upstream]).filter(([, upstream]) => upstream));
  const reading = upstreams.size === 1 ? new Single(upstreams) : new Several(upstreams);
  const watcher = watch(times, {
    sources: () => upstreams.keys(),
    keepalive: () => controller.enqueue(KEEPALIVE.slice()),
    expire() {
      let out;
      try {
        out = transcoder.expire();
      } catch (error) {
        controller.error(abandon(error));
        return;
      }
      controller.enqueue(out);
      cancel();
      controller.close();
      finish();
    },
  });
  for (const [source, upstream] of upstreams) {
    if (!transcoder.begun(source)) continue;
    watcher.hear(source, true);
    upstream.gather(gatherMs);
  }
  const stop = () => {
    live = false;
    watcher.stop();
    release();
  };
  const finish = () => {
    transcoder.free();
    stop();
  };
  const cancel = () => {
    for (const upstream of upstreams.values()) upstream.cancel();
  };
  // Only a trap in the module makes a call into the transcoder throw, be it this stream's or, before, another's. What is
  // left of the transcoder is in an instance that is no more, and is not freed.
  const abandon = (error) => {
    trapped(error);
    cancel();
    stop();
    return error;
  };
  const gone = () => {
    cancel();
    try {
      transcoder.gone();
    } catch (error) {
      abandon(error);
      return;
    }
    finish();
  };
  // The runtime tells the stream, and tells the request: whichever comes first.
  visit.whenGone(() => {
    if (live) gone();
  });
  // Takes what has come: the bytes of a source, or the end of it, without bytes. Returns whether there was nothing in it for
  // the client, who waits on.
  const take = (bytes, broken) => {
    // The client went away while we waited.
    if (!live) return false;
    if (broken && visit.isGone) {
      gone();
      return false;
    }
    const { source, upstream } = reading;
    let out;
    try {
      out = bytes === undefined ? transcoder.end(source, broken) : transcoder.push(source, bytes);
    } catch (error) {
      // The client must see a broken stream, not an ended one.
      throw abandon(error);
    }
    const hasText = out.byteLength > 0;
    if (hasText || transcoder.heard) watcher.hear(source, hasText);
    if (hasText) {
      controller.enqueue(out);
      if (gatherMs > 0) upstream.gather(gatherMs);
    }
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
      finish();
      return false;
    }
    if (hasText) watcher.end();
    return !hasText;
  };
  const took = (result) => take(reading.taken(result), false);
  const broke = (error) => {
    letGo(error);
    return take(undefined, true);
  };
  // In a loop: promises that each wait for the next would pile up where an upstream thinks for thousands of events.
  const readOn = async () => {
    while (await reading.next().then(took, broke));
  };
  // Nearly always one read is enough. The functions for it serve the whole stream, and none is async: that costs every
  // event two promises and their garbage.
  const tookFirst = (result) => (took(result) ? readOn() : undefined);
  const brokeFirst = (error) => (broke(error) ? readOn() : undefined);
  return new ReadableStream(
    {
      start(streamController) {
        controller = streamController;
        controller.enqueue(first);
      },
      pull() {
        watcher.begin();
        return reading.next().then(tookFirst, brokeFirst);
      },
      cancel() {
        if (live) gone();
      },
    },
    { highWaterMark: 0 },
  );
}
