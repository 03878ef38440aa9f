// Gives the local Worker what `make dev` needs and what is missing there: a tenant, a configuration, a demo key. It
// asks the running Worker, as any operator does: what is only in KV would not be the truth.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { keepDemoKey, keptDemoKey } from "./dev-secrets.mjs";
import { devDir, root } from "./paths.mjs";
import { refuse, say } from "./step.mjs";

const TENANT = "demo";
const seededPath = join(devDir, "seeded-config.json");

const shippedConfig = () => JSON.parse(readFileSync(join(root, "config", "dev.json"), "utf8"));

/// config/dev.json with its upstreams where they are in this run: `target` is {baseUrl, model, keyName}, with
/// `model` and `keyName` null for what the file says.
export function configFor({ baseUrl, model, own }) {
  const config = shippedConfig();
  for (const upstream of Object.values(config.upstreams)) {
    upstream.base_url = baseUrl;
    if (own) delete upstream.key;
    if (own?.keyName) upstream.key = own.keyName;
  }
  if (own) for (const { targets } of Object.values(config.models)) for (const target of targets) target.model = model;
  return config;
}

/// Gives the demo key.
export async function seed({ admin, config, mustApply }) {
  await admin.call("POST", "tenants", { id: TENANT, name: "Demo" }, { allow: [409] });
  // Before the key is tried: a Worker that has looked for a configuration and found none looks again only later.
  await seedConfig({ admin, config, mustApply });
  return demoKey(admin);
}

async function seedConfig({ admin, config, mustApply }) {
  const found = await admin.call("GET", "config", undefined, { allow: [404] });
  const stored = found.status === 404 ? null : JSON.stringify(found.body);
  const wanted = JSON.stringify(config);
  const seeded = existsSync(seededPath) ? readFileSync(seededPath, "utf8") : null;
  const ours = stored === null || stored === seeded || stored === JSON.stringify(shippedConfig());
  if (ours && stored !== wanted) await admin.call("PUT", "config", config);
  if (!ours && stored !== wanted) {
    if (mustApply) throw refuse("the local Worker has a configuration of your own, and UPSTREAM or UPSTREAM_PORT would need another.\nTo give yours up, while `make dev` runs without them: make config FILE=config/dev.json");
    say("the configuration of the local Worker is your own: it stays as it is");
  }
  if (ours) writeFileSync(seededPath, wanted);
}

/// The kept key, if it opens the Worker; else a new one.
async function demoKey(admin) {
  const kept = keptDemoKey();
  if (kept) {
    const { status } = await fetch(`${admin.origin}/v1/models`, { headers: { authorization: `Bearer ${kept}` } });
    if (status !== 401) return kept;
  }
  const { body } = await admin.call("POST", `tenants/${TENANT}/keys`, { name: "make dev" });
  keepDemoKey(body.key);
  return body.key;
}
