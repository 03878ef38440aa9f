// make key TENANT=… [NAME=…] [MODELS=a,b] [LIMITS=…] [EXPIRES=2027-01-31|+30d] [FORMAT=…] [CREATE=1]
// make key TENANT=… ROTATE=<id> [GRACE=<seconds>]
//
// Has the Worker make an API key, and prints it: it is shown only now.
import { openAdmin } from "./lib/admin.mjs";
import { expiry, flag, limits, modelList, oneOf, optional, required, seconds, tenantId } from "./lib/arguments.mjs";
import { command } from "./lib/command.mjs";
import { refuse } from "./lib/step.mjs";

await command(async () => {
  const tenant = tenantId(required("TENANT", "make key TENANT=acme"));
  const settings = {
    name: optional("NAME"), models: modelList(), limits: limits(), expires_at: expiry(),
    chunk_format: oneOf("FORMAT", ["superset", "documented", "openai"]),
  };
  const old = optional("ROTATE");
  const grace = seconds("GRACE");
  const admin = openAdmin();
  const keys = `tenants/${tenant}/keys`;

  if (old !== null) {
    const given = Object.entries(settings).filter(([, value]) => value !== null);
    if (given.length > 0) throw refuse(`a rotated key keeps its settings: leave out ${given.map(([name]) => name).join(", ")}`);
    show((await admin.call("POST", `${keys}/${encodeURIComponent(old)}/rotate`, grace === null ? {} : { grace_seconds: grace })).body);
    console.log(`The old key ${old} ${grace === 0 ? "is revoked" : `ends in ${grace ?? 86_400} seconds`}.`);
    return;
  }

  const known = (await admin.call("GET", `tenants/${tenant}`, undefined, { allow: [404] })).status === 200;
  if (!known) {
    if (!flag("CREATE")) throw refuse(`there is no tenant "${tenant}" at ${admin.origin}. CREATE=1 makes it with its first key.`);
    await admin.call("POST", "tenants", { id: tenant, name: tenant });
    console.log(`Tenant "${tenant}" is new.`);
  }
  show((await admin.call("POST", keys, settings)).body);

  const { models } = settings;
  const config = models && (await admin.call("GET", "config", undefined, { allow: [404] })).body;
  const unknown = config?.models ? models.filter((model) => !Object.hasOwn(config.models, model)) : [];
  if (unknown.length > 0) console.error(`warning: the configuration at ${admin.origin} has no model ${unknown.join(", ")}`);
});

function show({ key, id, tenant, models, limits, expires_at }) {
  console.log(`Key ${id} of tenant "${tenant}" is new.`);
  console.log(`  models:  ${models ? models.join(", ") : "all that the tenant may use"}`);
  console.log(`  limits:  ${Object.entries(limits).map((limit) => limit.join("=")).join(", ") || "those of the tenant"}`);
  console.log(`  expires: ${expires_at ? new Date(expires_at * 1000).toISOString() : "never"}`);
  console.log(`  revoke:  make revoke TENANT=${tenant} KEY_ID=${id}`);
  console.log("This is the key. It is shown only now, and stored nowhere:");
  console.log(key);
}
