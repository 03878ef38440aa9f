// Puts into the local KV what `make dev` needs and what is missing there: a tenant, its demo key, a configuration.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openKv } from "./kv.mjs";
import { devDir, root } from "./paths.mjs";
import { CONFIG_ENTRY, hashOf, keyEntry, keyRecord, tenantEntry, tenantRecord } from "./records.mjs";
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

export async function seed({ key, config, mustApply }) {
  const kv = openKv({ remote: false });
  const present = await kv.list();
  const entries = {};
  if (!present.has(tenantEntry(TENANT))) entries[tenantEntry(TENANT)] = tenantRecord({ name: "Demo" });
  const keyName = keyEntry(hashOf(key.key));
  if (!present.has(keyName)) entries[keyName] = keyRecord({ tenant: TENANT, id: key.id, name: "make dev" });

  const stored = present.has(CONFIG_ENTRY) ? JSON.stringify(await kv.read(CONFIG_ENTRY)) : null;
  const wanted = JSON.stringify(config);
  const seeded = existsSync(seededPath) ? readFileSync(seededPath, "utf8") : null;
  const ours = stored === null || stored === seeded || stored === JSON.stringify(shippedConfig());
  if (ours && stored !== wanted) entries[CONFIG_ENTRY] = config;
  if (!ours && stored !== wanted) {
    if (mustApply) throw refuse("the local KV has a configuration of your own, and UPSTREAM or UPSTREAM_PORT would need another.\nTo give yours up: make config FILE=config/dev.json");
    say("the configuration in the local KV is your own: it stays as it is");
  }

  if (Object.keys(entries).length > 0) await kv.put(entries);
  if (ours) writeFileSync(seededPath, wanted);
}
