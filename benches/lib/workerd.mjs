// The workerd configurations: the Workers of JavaScript, our Worker with its KV namespace and its ledger, and the ledger
// alone. Modules are embedded from the folder that the configuration is in.
import { createHash } from "node:crypto";

// Text in a capnp file is quoted as in JSON, as long as it is ASCII; everything here is.
const quote = JSON.stringify;

/** `compatibility_date` and `compatibility_flags` of wrangler.toml, which hold for all Workers: what is measured is the
 *  runtime that is deployed. The two lines are read as they are written; TOML has no parser here. */
export function compatibility(wranglerToml) {
  const date = /^compatibility_date\s*=\s*"([^"]+)"/m.exec(wranglerToml)?.[1];
  const flags = /^compatibility_flags\s*=\s*\[([^\]]*)\]/m.exec(wranglerToml)?.[1] ?? "";
  if (!date) throw new Error("wrangler.toml names no compatibility_date");
  const names = [...flags.matchAll(/"([^"]+)"/g)].map((match) => quote(match[1]));
  return `compatibilityDate = ${quote(date)}, compatibilityFlags = [${names.join(", ")}]`;
}

// Every limit is set, so that the ledger has all its work to do, and none is ever reached.
const LIMIT = 1_000_000_000;
const LIMITS = {
  requests_per_minute: LIMIT,
  tokens_per_minute: LIMIT,
  requests_per_day: LIMIT,
  tokens_per_day: LIMIT,
  tokens_per_month: LIMIT,
  concurrent_requests: LIMIT,
};

/** The records that our Worker finds in KV: one tenant, one key, and for each way in which the upstream writes a model.
 *  `model` is what each model says besides, `settings` what the configuration does. */
export function records(upstreamPort, key, scripts, { model, ...settings }) {
  const hash = createHash("sha256").update(key).digest("hex");
  const upstream = (script) => ({ dialect: "openai-completions", base_url: `http://127.0.0.1:${upstreamPort}/${script}/v1` });
  const each = (make) => Object.fromEntries(scripts.map((script) => [script, make(script)]));
  return {
    config: {
      version: 1,
      upstreams: each(upstream),
      models: each((script) => ({ targets: [{ upstream: script, model: "scripted" }], ...model })),
      ...settings,
    },
    "tenant:bench": { version: 1, name: "Bench", status: "active", models: null, limits: LIMITS },
    [`key:${hash}`]: {
      version: 1,
      tenant: "bench",
      id: key.split("-")[1],
      name: "bench",
      status: "active",
      expires_at: null,
      models: null,
      chunk_format: null,
    },
  };
}

/** A Worker of one file that knows its upstream and nothing else. */
export function javaScript(compat, file, upstreamPort) {
  return config([fileWorker(compat, file, [upstreamBinding(upstreamPort)])]);
}

/** The same, with an object that it may call. */
export function withObject(compat, file, upstreamPort, disk) {
  return config([fileWorker(compat, file, [upstreamBinding(upstreamPort), EMPTY_BINDING], "EmptyObject"), storage(disk)]);
}

/** Our Worker. `disk` is an empty folder, for the ledger. */
export function ours(compat, kvRecords, disk) {
  return config([
    ourWorker("main", compat, [`(name = "KV", kvNamespace = "kv")`, ledgerBinding()]),
    worker("kv", compat, {
      modules: [`(name = "kv.js", esModule = embed "kv.js")`],
      bindings: [`(name = "RECORDS", json = ${quote(JSON.stringify(kvRecords))})`],
    }),
    storage(disk),
  ]);
}

/** The ledger of our Worker, with a client that asks nothing but it, and an object beside it that does nothing. */
export function ledgerAlone(compat, disk) {
  return config([
    fileWorker(compat, "ledger_client.js", [ledgerBinding("ours"), EMPTY_BINDING], "EmptyObject"),
    ourWorker("ours", compat, []),
    storage(disk),
  ]);
}

const EMPTY_BINDING = `(name = "EMPTY", durableObjectNamespace = "EmptyObject")`;
const upstreamBinding = (port) => `(name = "UPSTREAM", text = ${quote(`http://127.0.0.1:${port}`)})`;

function fileWorker(compat, file, bindings, objects) {
  return worker("main", compat, { modules: [`(name = ${quote(file)}, esModule = embed ${quote(file)})`], bindings, objects });
}

function ourWorker(name, compat, bindings) {
  return worker(name, compat, {
    modules: [
      `(name = "index.js", esModule = embed "index.js")`,
      `(name = "index_bg.wasm", wasm = embed "index_bg.wasm")`,
    ],
    bindings,
    objects: "LedgerObject",
  });
}

/** The binding to the ledger, which may be another service's. */
function ledgerBinding(service) {
  const where = service ? `(className = "LedgerObject", serviceName = ${quote(service)})` : `"LedgerObject"`;
  return `(name = "LEDGER", durableObjectNamespace = ${where})`;
}

function storage(disk) {
  return `    (name = "disk", disk = (path = ${quote(disk)}, writable = true)),`;
}

function worker(name, compat, { modules, bindings, objects }) {
  const namespace = `
      durableObjectNamespaces = [(className = ${quote(objects)}, uniqueKey = ${quote(objects)}, enableSql = true)],
      durableObjectStorage = (localDisk = "disk"),`;
  return `    (name = ${quote(name)}, worker = (
      ${compat},
      modules = [${modules.join(", ")}],
      bindings = [${bindings.join(", ")}],${objects ? namespace : ""}
    )),`;
}

// Workers reach this machine's own addresses and nothing else, and listen on a port that the system chooses.
function config(services) {
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
${services.join("\n")}
    (name = "internet", network = (allow = ["local"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);
`;
}
