// make key TENANT=… [NAME=…] [MODELS=a,b] [EXPIRES=2027-01-31|+30d] [FORMAT=…] [CREATE=1] [REMOTE=1]
//
// Makes an API key, prints it once, and stores only its SHA-256 and what it may do.
import { expiry, flag, modelList, oneOf, optional, required, tenantId } from "./lib/arguments.mjs";
import { command } from "./lib/command.mjs";
import { openKv } from "./lib/kv.mjs";
import { CONFIG_ENTRY, hashOf, keyEntry, keyRecord, makeKey, tenantEntry, tenantRecord } from "./lib/records.mjs";
import { refuse } from "./lib/step.mjs";

await command(async () => {
  const tenant = tenantId(required("TENANT", "make key TENANT=acme"));
  const models = modelList();
  const expires_at = expiry();
  const chunk_format = oneOf("FORMAT", ["superset", "documented", "openai"]);
  const remote = flag("REMOTE");
  const kv = openKv({ remote });

  const entries = {};
  if (!(await kv.list(tenantEntry(tenant))).has(tenantEntry(tenant))) {
    if (!flag("CREATE")) throw refuse(`there is no tenant "${tenant}" in the ${kv.name}. CREATE=1 makes it with its first key.`);
    entries[tenantEntry(tenant)] = tenantRecord({ name: tenant });
  }
  const { id, key } = makeKey();
  const hash = hashOf(key);
  entries[keyEntry(hash)] = keyRecord({ tenant, id, name: optional("NAME") ?? "", expires_at, models, chunk_format });
  await kv.put(entries);

  if (entries[tenantEntry(tenant)]) console.log(`Tenant "${tenant}" is new.`);
  console.log(`Key ${id} of tenant "${tenant}" is in the ${kv.name}.`);
  console.log(`  models:  ${models ? models.join(", ") : "all that the tenant may use"}`);
  console.log(`  expires: ${expires_at ? new Date(expires_at * 1000).toISOString() : "never"}`);
  console.log(`  revoke:  make revoke KEY_HASH=${hash}${remote ? " REMOTE=1" : ""}`);
  console.log("This is the key. It is shown only now, and stored nowhere:");
  console.log(key);

  const configured = models && (await kv.get(CONFIG_ENTRY))?.models;
  const unknown = configured ? models.filter((model) => !Object.hasOwn(configured, model)) : [];
  if (unknown.length > 0) console.error(`warning: the configuration in the ${kv.name} has no model ${unknown.join(", ")}`);
});
