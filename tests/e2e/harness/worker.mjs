// The compiled Worker on real workerd, with real local KV and real ledger objects on disk in a folder of its own.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Log, LogLevel, Miniflare } from "miniflare";
import { aiBindings } from "./ai_binding.mjs";
import { datasetBinding } from "./dataset.mjs";
import { ledgerBindings } from "./ledger_stand_ins.mjs";
import { inspectorsOf } from "./inspector.mjs";
import { portWithoutListener } from "./ports.mjs";
import { makeKey } from "./records.mjs";
import { childrenNamed } from "./processes.mjs";
import { within } from "./wait.mjs";
import { readWranglerSettings } from "./wrangler_settings.mjs";

const REPOSITORY = resolve(import.meta.dirname, "../../..");
const BUILD = process.env.WORKER_BUILD ? resolve(process.env.WORKER_BUILD) : join(REPOSITORY, "build");
const WORKER = "completions-edge";

/**
 * Starts one Worker. `config` and `tenants` are in KV before it takes its first request, because the isolate
 * remembers what it has read; keys and further tenants may be added at any time. `ledger` is "real", or how it
 * fails: see ledger_stand_ins.mjs. `ai`, if there is to be a binding to Workers AI, says where its service is: see
 * ai_binding.mjs. With `dataset` there is one of Analytics Engine: see dataset.mjs. `onLog` takes the lines of the log, which
 * are then not kept: a long run has many. With `inspect` one can look into `isolates`: see inspector.mjs.
 */
export async function startWorker({ config, tenants, secrets = {}, ledger = "real", ai, dataset = false, onLog, inspect = false }) {
  const storage = mkdtempSync(join(tmpdir(), "completions-edge-e2e-"));
  const removeStorage = () => rmSync(storage, { recursive: true, force: true });
  process.once("exit", removeStorage);

  // What the Worker writes to its log: most tests provoke failures, and their lines would bury the results.
  const log = [];
  const wakeReaders = [];
  const takeLog = ({ message }) => {
    if (onLog) return onLog(message);
    log.push(message);
    for (const wake of wakeReaders.splice(0)) wake();
  };

  let running;
  const begin = async () => {
    const inspectorPort = inspect ? await portWithoutListener() : undefined;
    running = await begun(new Miniflare(settings({ storage, secrets, ledger, ai, dataset, takeLog, inspectorPort })), inspectorPort);
  };
  const end = async () => {
    const { miniflare, isolates = [] } = running ?? {};
    running = undefined;
    for (const isolate of isolates) isolate.close();
    await miniflare?.dispose();
  };
  const stop = async () => {
    await end();
    removeStorage();
    process.removeListener("exit", removeStorage);
  };
  const put = (name, record) => running.kv.put(name, typeof record === "string" ? record : JSON.stringify(record));

  try {
    await begin();
    for (const [id, tenant] of Object.entries(tenants)) await put(`tenant:${id}`, tenant);
    await put("config", config);
    return {
      get port() {
        return running.port;
      },
      get origin() {
        return `http://127.0.0.1:${running.port}`;
      },
      get baseURL() {
        return `http://127.0.0.1:${running.port}/v1`;
      },
      /** The process of workerd; undefined where the system does not tell. */
      get pid() {
        return running.pid;
      },
      /** The inspectors of the process's isolates, and of them the Worker's. */
      get isolates() {
        return running.isolates;
      },
      get isolate() {
        return running.isolates.find(({ name }) => name.endsWith(`:${WORKER}`));
      },
      /** The log so far, as soon as `part` is in it. */
      async logWith(part) {
        const seen = (async () => {
          while (!log.join("\n").includes(part)) await new Promise((resolve) => wakeReaders.push(resolve));
        })();
        await within(seen, `${JSON.stringify(part)} in the Worker's log`);
        return log.join("\n");
      },
      /** The log so far. */
      logSoFar: () => log.join("\n"),
      /** What the log says of a request that has ended: its one line, parsed. */
      async recordOf(requestId) {
        const part = `"request_id":${JSON.stringify(requestId)}`;
        await this.logWith(part);
        const lines = log.filter((line) => line.includes(part));
        if (lines.length !== 1) throw new Error(`${lines.length} lines of the log for one request: ${lines.join("\n")}`);
        return JSON.parse(lines[0]);
      },
      put,
      /** Stores a fresh key and answers its text. */
      async addKey(fields) {
        const key = makeKey(fields);
        await put(key.kvName, key.record);
        return key.text;
      },
      /** All of KV, name → text. */
      async kvContents() {
        const { keys } = await running.kv.list();
        return Object.fromEntries(await Promise.all(keys.map(async ({ name }) => [name, await running.kv.get(name)])));
      },
      /** The folder that outlives a restart. */
      storage,
      /** Kills workerd in the midst of whatever it does. */
      kill: end,
      /** Starts it again on what it has left on disk. Its port is another one. */
      begin,
      async restart() {
        await end();
        await begin();
      },
      /** Throws the ledger object of a tenant out of memory; its storage stays. */
      evictLedger: (tenant) => running.miniflare.unsafeEvictDurableObject(WORKER, "LedgerObject", { name: tenant }),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** A Worker that has started, with what the harness needs of it. One that cannot start is not left behind. */
async function begun(miniflare, inspectorPort) {
  try {
    await miniflare.ready;
    const url = new URL(await miniflare.unsafeGetDirectURL(WORKER));
    const kv = await miniflare.getKVNamespace("KV");
    const isolates = inspectorPort === undefined ? [] : await inspectorsOf(inspectorPort);
    return { miniflare, kv, port: Number(url.port), pid: childrenNamed("workerd").at(-1), isolates };
  } catch (error) {
    await miniflare.dispose();
    throw error;
  }
}

function settings({ storage, secrets, ledger, ai, dataset, takeLog, inspectorPort }) {
  const runtime = readWranglerSettings(join(REPOSITORY, "wrangler.toml"));
  const secretBindings = Object.entries(secrets).map(([name, value]) => [name, { type: "text", value }]);
  const modules = {
    "index.js": { type: "esm", contents: readFileSync(join(BUILD, "index.js"), "utf8") },
    "index_bg.wasm": { type: "wasm", contents: new Uint8Array(readFileSync(join(BUILD, "index_bg.wasm"))) },
  };
  const { env, workers } = ledgerBindings(ledger, WORKER, runtime, modules);
  const { env: aiEnv, workers: aiWorkers } = aiBindings(ai, runtime);
  const { env: datasetEnv, workers: datasetWorkers } = dataset ? datasetBinding(runtime) : { env: {}, workers: [] };
  return {
    host: "127.0.0.1",
    port: 0,
    log: new Log(LogLevel.ERROR),
    handleStructuredLogs: takeLog,
    telemetry: { enabled: false },
    resourcePersistencePath: storage,
    inspectorPort,
    workers: [
      {
        config: {
          name: WORKER,
          ...runtime,
          manifest: { mainModule: "index.js", modulesRoot: BUILD, modules },
          env: { KV: { type: "kv", id: "e2e" }, ...env, ...aiEnv, ...datasetEnv, ...Object.fromEntries(secretBindings) },
          exports: { LedgerObject: { type: "durable-object", storage: "sqlite" } },
        },
        // A socket of workerd's own: miniflare's entry Worker would stand between the client and the Worker
        // and have its own ideas about chunks, resets and headers.
        dev: { unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }] },
      },
      ...workers,
      ...aiWorkers,
      ...datasetWorkers,
    ],
  };
}
