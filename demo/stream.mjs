// Sends an answer as Server-Sent Events at a human pace. Ends early when the client has gone away.
import { setTimeout as pause } from "node:timers/promises";

/// Resolves to how it ended: "done", "error", "closed" (by the script) or "client gone".
export async function sendStream(res, wire, { choices, usage }, { includeUsage, paceMs, script, onChunk }) {
  const gone = new AbortController();
  res.once("close", () => gone.abort());
  res.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", ...script.headers });
  res.flushHeaders();
  let sent = 0;
  try {
    for (const chunk of wire.open(choices)) send(res, chunk);
    for (const { index, piece, offset } of interleaved(choices)) {
      if (sent === script.close_after_chunks) {
        res.socket.destroySoon(); // What was written still goes out; the end of the body does not.
        return "closed";
      }
      if (script.error && sent === (script.error_after_chunks ?? 0)) {
        send(res, { error: script.error });
        res.end();
        return "error";
      }
      if (sent > 0 && paceMs > 0) await pause(paceMs, null, { signal: gone.signal });
      await drained(res, gone.signal);
      gone.signal.throwIfAborted();
      send(res, wire.piece(index, piece, offset));
      onChunk(++sent);
    }
    for (const { index, finish } of choices) send(res, wire.finish(index, finish));
    if (includeUsage) send(res, wire.usage(usage));
    res.end("data: [DONE]\n\n");
    return "done";
  } catch (error) {
    if (gone.signal.aborted) return "client gone";
    throw error;
  }
}

const send = (res, chunk) => res.write(`data: ${JSON.stringify(chunk)}\n\n`);

async function drained(res, signal) {
  if (!res.writableNeedDrain) return;
  await new Promise((resolve, reject) => {
    res.once("drain", resolve);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/// One piece of each choice in turn, as real servers send several choices.
function* interleaved(choices) {
  const offsets = choices.map(() => 0);
  const longest = Math.max(...choices.map(({ pieces }) => pieces.length));
  for (let i = 0; i < longest; i++) {
    for (const [c, { index, pieces }] of choices.entries()) {
      if (i >= pieces.length) continue;
      yield { index, piece: pieces[i], offset: offsets[c] };
      offsets[c] += [...pieces[i].text].length;
    }
  }
}
