// A Worker with a wire upstream behind it: what most tests start from.
import { send } from "./http_client.mjs";
import { makeTenant } from "./records.mjs";
import { startWireUpstream } from "./wire_upstream.mjs";
import { startWorker } from "./worker.mjs";

export const UPSTREAM_KEY = "upstream-secret-0123456789abcdef";

/**
 * `scripts`: model name → a script, or `{ script, dialect, model, upstream }` where `model` has fields of the
 * model's configuration and `upstream` those of its upstream's. Each model gets an upstream of its own with the
 * base URL `<wire>/<dialect>/v1`, so that one test's settings are no other's. `configure` may change the whole
 * document before it goes to KV.
 */
export async function startGateway({ scripts, tenants = {}, configure = (config) => config }) {
  const cases = Object.entries(scripts).map(([name, entry]) => [name, typeof entry === "function" ? { script: entry } : entry]);
  const upstream = await startWireUpstream(Object.fromEntries(cases.map(([name, one]) => [name, one.script])));

  const config = { version: 1, upstreams: {}, models: {} };
  cases.forEach(([name, one], index) => {
    const dialect = one.dialect ?? "openai-completions";
    const upstreamName = `wire-${index}`;
    config.upstreams[upstreamName] = {
      dialect,
      base_url: `${upstream.origin}/${dialect}/v1`,
      key: "WIRE_KEY",
      ...one.upstream,
    };
    config.models[name] = { targets: [{ upstream: upstreamName, model: name }], ...one.model };
  });

  try {
    const worker = await startWorker({
      config: configure(config, upstream),
      tenants: { demo: makeTenant(), ...tenants },
      secrets: { WIRE_KEY: UPSTREAM_KEY },
    });
    const key = await worker.addKey();
    return {
      ...worker,
      upstream,
      key,
      /** POST /v1/completions; `body` an object, or text as it stands. */
      complete: (body, { headers = {}, ...options } = {}) => send(worker.port, completionCall(key, body, { headers, ...options })),
      get: (path, headers = {}) => send(worker.port, { path, headers: { authorization: `Bearer ${key}`, ...headers } }),
      async stop() {
        try {
          await worker.stop();
        } finally {
          await upstream.stop();
        }
      },
    };
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
