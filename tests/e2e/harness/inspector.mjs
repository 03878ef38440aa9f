// workerd's inspector, which speaks the Chrome DevTools Protocol over a WebSocket for each isolate of the process: what an
// isolate holds, and its collector.
import { once } from "node:events";
import { eventually } from "./wait.mjs";

// What may be somebody's. The engine's own (code, shapes, strings, what it calls `system`) comes and goes as it likes.
const KINDS = new Set(["object", "closure", "native"]);
const ENGINE = "native:system / ";
// The bytes behind array buffers, the memory of a module of wasm among them.
const BUFFER = "native:system / JSArrayBufferData";

/** The inspectors of a process, by the names of its isolates. */
export async function inspectorsOf(port) {
  const list = await (await fetch(`http://127.0.0.1:${port}/json`)).json();
  return Promise.all(list.map(({ id, webSocketDebuggerUrl }) => inspector(id, webSocketDebuggerUrl)));
}

async function inspector(name, url) {
  const socket = new WebSocket(url);
  const answers = new Map();
  let chunks = [];
  let asked = 0;
  socket.addEventListener("message", ({ data }) => {
    const { id, method, params, error } = JSON.parse(data);
    if (method === "HeapProfiler.addHeapSnapshotChunk") chunks.push(params.chunk);
    if (id === undefined) return;
    const { resolve, reject } = answers.get(id);
    answers.delete(id);
    if (error) reject(new Error(`${name}: ${error.message}`));
    else resolve();
  });
  socket.addEventListener("close", () => {
    for (const { reject } of answers.values()) reject(new Error(`${name}: its inspector is gone`));
    answers.clear();
  });
  await once(socket, "open");
  const call = (method, params = {}) =>
    new Promise((resolve, reject) => {
      asked += 1;
      answers.set(asked, { resolve, reject });
      socket.send(JSON.stringify({ id: asked, method, params }));
    });

  let isCollecting = false;
  return {
    name,
    /** Has the isolate collect its garbage when it runs next, which one that nobody calls never does. */
    collect() {
      if (isCollecting) return;
      isCollecting = true;
      const collected = () => (isCollecting = false);
      call("HeapProfiler.collectGarbage").then(collected, collected);
    },
    /** What the isolate holds, after a collection: how many of each kind of object, and how many bytes in buffers. */
    async held() {
      chunks = [];
      await call("HeapProfiler.takeHeapSnapshot");
      return countsOf(JSON.parse(chunks.join("")));
    },
    close: () => socket.close(),
  };
}

/** A snapshot is one list of numbers for all nodes, which its head explains. */
function countsOf({ snapshot: { meta }, nodes, strings }) {
  const [type, name, size] = ["type", "name", "self_size"].map((field) => meta.node_fields.indexOf(field));
  const counts = new Map();
  let bufferBytes = 0;
  for (let at = 0; at < nodes.length; at += meta.node_fields.length) {
    const kind = meta.node_types[type][nodes[at + type]];
    if (!KINDS.has(kind)) continue;
    const what = `${kind}:${strings[nodes[at + name]]}`;
    if (what === BUFFER) bufferBytes += nodes[at + size];
    if (!what.startsWith(ENGINE)) counts.set(what, (counts.get(what) ?? 0) + 1);
  }
  return { counts, bufferBytes };
}

/**
 * What an isolate holds more than it did `before`, as soon as there is no kind of object of which there are `most` more
 * or above; fails with those that there are.
 */
export async function heldLittleMore(isolate, before, most) {
  let grown;
  const look = async () => {
    const held = await isolate.held();
    const more = [...held.counts].map(([what, count]) => [what, count - (before.counts.get(what) ?? 0)]);
    grown = more.filter(([, more]) => more >= most);
    return grown.length === 0 ? held : undefined;
  };
  return eventually("an isolate to hold no more than before", look, 8000).catch((error) => {
    throw new Error(`${error.message}: ${grown.map(([what, more]) => `${more} ${what}`).join(", ")}`);
  });
}
