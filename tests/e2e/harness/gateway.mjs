// A Worker with a wire upstream behind it: what most tests start from.
import { randomBytes } from "node:crypto";
import { send, startCall } from "./http_client.mjs";
import { makeKey, makeTenant } from "./records.mjs";
import { eventually } from "./wait.mjs";
import { startWireUpstream } from "./wire_upstream.mjs";
import { startWorker } from "./worker.mjs";

export const ADMIN_TOKEN = "an-operator's-secret-0123456789";
export const UPSTREAM_KEY = "upstream-secret-0123456789abcdef";

/**
 * `scripts`: model name → a script, or `{ script, dialect, model, upstream, target, base }` where `model` has fields of
 * the model's configuration, `upstream` those of its upstream's and `target` those of its target's. Each model gets an
 * upstream of its own with the base URL `<wire>/<dialect>/v1`, so that one test's settings are no other's. With a `base`
 * it is `<wire>/=<model><base>`: then the upstream may call the model as it likes, or not at all. `configure` may change
 * the whole document before it goes to KV. `secrets` are beside those that every Worker has here. `ledger`, `ai`, `onLog` and
 * `inspect` are as in `startWorker`, where the `address` is the wire upstream's.
 */
export async function startGateway({ scripts, tenants = {}, configure = (config) => config, secrets = {}, ledger, ai, dataset, onLog, inspect }) {
  const cases = Object.entries(scripts).map(([name, entry]) => [name, typeof entry === "function" ? { script: entry } : entry]);
  const upstream = await startWireUpstream(Object.fromEntries(cases.map(([name, one]) => [name, one.script])));

  // A script is asked once, whatever it answered before: trying again and passing over have tests of their own.
  const config = { version: 1, upstreams: {}, models: {}, retry: { same_target_attempts: 1 }, breaker: { enabled: false } };
  cases.forEach(([name, one], index) => {
    const dialect = one.dialect ?? "openai-completions";
    const upstreamName = `wire-${index}`;
    const path = one.base === undefined ? `/${dialect}/v1` : `/=${encodeURIComponent(name)}${one.base}`;
    config.upstreams[upstreamName] = {
      dialect,
      base_url: `${upstream.origin}${path}`,
      key: "WIRE_KEY",
      ...one.upstream,
    };
    config.models[name] = { targets: [{ upstream: upstreamName, model: name, ...one.target }], ...one.model };
  });

  try {
    const worker = await startWorker({
      config: configure(config, upstream),
      tenants: { demo: makeTenant(), ...tenants },
      secrets: { WIRE_KEY: UPSTREAM_KEY, ADMIN_TOKEN, ...secrets },
      ledger,
      dataset,
      onLog,
      inspect,
      ai: ai && { address: `127.0.0.1:${upstream.port}`, ...ai },
    });
    const key = await worker.addKey();
    // The Worker is the prototype and not copied: its port changes with a restart.
    return Object.assign(Object.create(worker), {
      upstream,
      key,
      /** POST /v1/completions; `body` an object, or text as it stands. */
      complete: (body, options) => send(worker.port, completionCall(key, body, options)),
      get: (path, headers = {}) => send(worker.port, { path, headers: { authorization: `Bearer ${key}`, ...headers } }),
      addCaller: (limits) => addCaller(worker, limits),
      async stop() {
        try {
          await worker.stop();
        } finally {
          await upstream.stop();
        }
      },
    });
  } catch (error) {
    await upstream.stop();
    throw error;
  }
}

export function completionCall(key, body, { headers = {}, ...options } = {}) {
  return {
    method: "POST",
    path: "/v1/completions",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json", ...headers },
    body: typeof body === "string" || Array.isArray(body) ? body : JSON.stringify(body),
    ...options,
  };
}

/** A key of a new tenant, or of one that another caller belongs to; `limits` are the tenant's, and the key's own. */
async function addCaller(worker, { tenant: tenantLimits, key: keyLimits, beside } = {}) {
  const tenant = beside?.tenant ?? `tenant-${randomBytes(4).toString("hex")}`;
  if (!beside) await worker.put(`tenant:${tenant}`, makeTenant({ limits: tenantLimits }));
  const { text: key, kvName, record } = makeKey({ tenant, limits: keyLimits });
  await worker.put(kvName, record);
  const caller = {
    tenant,
    key,
    keyId: record.id,
    complete: (body, options) => send(worker.port, completionCall(key, body, options)),
    start: (body, options) => startCall(worker.port, completionCall(key, body, options)),
    get: (path) => send(worker.port, { path, headers: { authorization: `Bearer ${key}` } }),
    /** What the ledger has of the tenant: its rows by key and model. The only place that knows how one asks. */
    async usage() {
      const path = `/admin/v1/tenants/${tenant}/usage?group_by=key,model`;
      const response = await send(worker.port, { path, headers: { authorization: `Bearer ${ADMIN_TOKEN}` } });
      if (response.status !== 200) throw new Error(`${path}: ${response.status} ${await response.text()}`);
      return (await response.json()).data;
    },
    /** The sum of the rows, as soon as `count` requests have ended. Settling takes a moment after the answer. */
    usageOf: (count) =>
      eventually(`${count} requests of ${tenant} to be settled`, async () => {
        const sum = sumOf(await caller.usage());
        return sum.requests >= count ? sum : undefined;
      }),
  };
  return caller;
}

const COUNTS = ["requests", "prompt_tokens", "completion_tokens", "estimated", "refused", "errors"];

function sumOf(rows) {
  return Object.fromEntries(COUNTS.map((name) => [name, rows.reduce((sum, row) => sum + row[name], 0)]));
}
