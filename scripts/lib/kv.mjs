// The Worker's KV namespace: the local one that `make dev` uses, or the deployed one. Values are JSON.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { devDir } from "./paths.mjs";
import { demandNamespace, wrangler } from "./wrangler.mjs";

export function openKv({ remote }) {
  if (remote) demandNamespace();
  const where = ["--binding", "KV", remote ? "--remote" : "--local"];

  /// The names of all keys that begin with `prefix`.
  async function list(prefix = "") {
    const out = await wrangler(["kv", "key", "list", ...where, ...(prefix ? ["--prefix", prefix] : [])]);
    return new Set(JSON.parse(out.slice(out.indexOf("["))).map(({ name }) => name));
  }

  /// The value of a key that is known to exist: of one that does not, `kv key get` says so on standard output,
  /// as if that were the value.
  async function read(key) {
    return JSON.parse(await wrangler(["kv", "key", "get", key, ...where, "--text"]));
  }

  /// The value, or null where there is none.
  async function get(key) {
    return (await list(key)).has(key) ? read(key) : null;
  }

  /// Writes `{key: value}`, all in one call.
  async function put(entries) {
    mkdirSync(devDir, { recursive: true });
    const folder = mkdtempSync(join(devDir, "put-"));
    try {
      const file = join(folder, "entries.json");
      writeFileSync(file, JSON.stringify(Object.entries(entries).map(([key, value]) => ({ key, value: JSON.stringify(value) }))));
      await wrangler(["kv", "bulk", "put", file, ...where]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  }

  return { list, read, get, put, name: remote ? "deployed KV" : "local KV" };
}
