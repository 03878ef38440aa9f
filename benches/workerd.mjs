// The two workerd configurations: the pass-through, and our Worker with its KV namespace.
import { createHash } from "node:crypto";

// Text in a capnp file is quoted as in JSON, as long as it is ASCII; everything here is.
const quote = JSON.stringify;

/** `compatibility_date` and `compatibility_flags` of wrangler.toml, which hold for both Workers: what is measured is the
 *  runtime that is deployed. The two lines are read as they are written; TOML has no parser here. */
export function compatibility(wranglerToml) {
  const date = /^compatibility_date\s*=\s*"([^"]+)"/m.exec(wranglerToml)?.[1];
  const flags = /^compatibility_flags\s*=\s*\[([^\]]*)\]/m.exec(wranglerToml)?.[1] ?? "";
  if (!date) throw new Error("wrangler.toml names no compatibility_date");
  const names = [...flags.matchAll(/"([^"]+)"/g)].map((match) => quote(match[1]));
  return `compatibilityDate = ${quote(date)}, compatibilityFlags = [${names.join(", ")}]`;
}

/** The records that our Worker finds in KV: one tenant, one key, and one model for each way the upstream writes. */
export function records(upstreamPort, key) {
  const hash = createHash("sha256").update(key).digest("hex");
  const upstream = (path) => ({ dialect: "openai-completions", base_url: `http://127.0.0.1:${upstreamPort}/${path}/v1` });
  const model = (upstream) => ({ targets: [{ upstream, model: "scripted" }] });
  return {
    config: {
      version: 1,
      upstreams: { one: upstream("one"), many: upstream("many") },
      models: { one: model("one"), many: model("many") },
    },
    "tenant:bench": { version: 1, name: "Bench", status: "active", models: null },
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

export function passThrough(compat, upstreamPort) {
  return config([
    worker("main", compat, {
      modules: [`(name = "pass_through.js", esModule = embed "pass_through.js")`],
      bindings: [`(name = "UPSTREAM", text = ${quote(`http://127.0.0.1:${upstreamPort}`)})`],
    }),
  ]);
}

export function ours(compat, kvRecords) {
  return config([
    worker("main", compat, {
      modules: [
        `(name = "index.js", esModule = embed "index.js")`,
        `(name = "index_bg.wasm", wasm = embed "index_bg.wasm")`,
      ],
      bindings: [`(name = "KV", kvNamespace = "kv")`],
    }),
    worker("kv", compat, {
      modules: [`(name = "kv.js", esModule = embed "kv.js")`],
      bindings: [`(name = "RECORDS", json = ${quote(JSON.stringify(kvRecords))})`],
    }),
  ]);
}

function worker(name, compat, { modules, bindings }) {
  return `    (name = ${quote(name)}, worker = (
      ${compat},
      modules = [${modules.join(", ")}],
      bindings = [${bindings.join(", ")}],
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
