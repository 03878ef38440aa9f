// The compiled Worker on real workerd, with real local KV on disk in a folder of its own.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Log, LogLevel, Miniflare } from "miniflare";
import { makeKey } from "./records.mjs";
import { within } from "./wait.mjs";
import { readWranglerSettings } from "./wrangler_settings.mjs";

const REPOSITORY = resolve(import.meta.dirname, "../../..");
const BUILD = process.env.WORKER_BUILD ? resolve(process.env.WORKER_BUILD) : join(REPOSITORY, "build");

/**
 * Starts one Worker. `config` and `tenants` are in KV before it takes its first request, because the isolate
 * remembers what it has read; keys may be added at any time.
 */
export async function startWorker({ config, tenants, secrets = {} }) {
  const storage = mkdtempSync(join(tmpdir(), "completions-edge-e2e-"));
  const removeStorage = () => rmSync(storage, { recursive: true, force: true });
  process.once("exit", removeStorage);

  // What the Worker writes to its log: most tests provoke failures, and their lines would bury the results.
  const log = [];
  const wakeReaders = [];
  const secretBindings = Object.entries(secrets).map(([name, value]) => [name, { type: "text", value }]);
  const miniflare = new Miniflare({
    host: "127.0.0.1",
    port: 0,
    log: new Log(LogLevel.ERROR),
    handleStructuredLogs: ({ message }) => {
      log.push(message);
      for (const wake of wakeReaders.splice(0)) wake();
    },
    telemetry: { enabled: false },
    resourcePersistencePath: storage,
    workers: [
      {
        config: {
          name: "completions-edge",
          ...readWranglerSettings(join(REPOSITORY, "wrangler.toml")),
          manifest: {
            mainModule: "index.js",
            modulesRoot: BUILD,
            modules: {
              "index.js": { type: "esm", contents: readFileSync(join(BUILD, "index.js"), "utf8") },
              "index_bg.wasm": { type: "wasm", contents: new Uint8Array(readFileSync(join(BUILD, "index_bg.wasm"))) },
            },
          },
          env: { KV: { type: "kv", id: "e2e" }, ...Object.fromEntries(secretBindings) },
        },
        // A socket of workerd's own: miniflare's entry Worker would stand between the client and the Worker
        // and have its own ideas about chunks, resets and headers.
        dev: { unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }] },
      },
    ],
  });

  const stop = async () => {
    await miniflare.dispose();
    removeStorage();
    process.removeListener("exit", removeStorage);
  };

  try {
    await miniflare.ready;
    const kv = await miniflare.getKVNamespace("KV");
    const put = (name, record) => kv.put(name, typeof record === "string" ? record : JSON.stringify(record));
    for (const [id, tenant] of Object.entries(tenants)) await put(`tenant:${id}`, tenant);
    await put("config", config);

    const url = new URL(await miniflare.unsafeGetDirectURL("completions-edge"));
    return {
      port: Number(url.port),
      origin: url.origin,
      baseURL: `${url.origin}/v1`,
      /** The log so far, as soon as `part` is in it. */
      async logWith(part) {
        const seen = (async () => {
          while (!log.join("\n").includes(part)) await new Promise((resolve) => wakeReaders.push(resolve));
        })();
        await within(seen, `${JSON.stringify(part)} in the Worker's log`);
        return log.join("\n");
      },
      put,
      /** Stores a fresh key and answers its text. */
      async addKey(fields) {
        const key = makeKey(fields);
        await put(key.kvName, key.record);
        return key.text;
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
