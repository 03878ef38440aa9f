// make tenant TENANT=… [STATUS=active|suspended] [NAME=…] [MODELS=a,b|all] [LIMITS=…] [DELETE=1]
//
// Makes a tenant, or changes what is given and leaves the rest. DELETE=1 deletes it and revokes its keys.
import { openAdmin } from "./lib/admin.mjs";
import { flag, limits, modelList, oneOf, optional, required, tenantId } from "./lib/arguments.mjs";
import { command } from "./lib/command.mjs";

await command(async () => {
  const id = tenantId(required("TENANT", "make tenant TENANT=acme STATUS=suspended"));
  const changes = {
    status: oneOf("STATUS", ["active", "suspended"]), name: optional("NAME"), limits: limits(),
    models: optional("MODELS") === "all" ? "all" : modelList(),
  };
  const given = Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== null));
  // In a merge patch null is what takes a restriction away.
  if (given.models === "all") given.models = null;
  const admin = openAdmin();
  if (flag("DELETE")) {
    await admin.call("DELETE", `tenants/${id}`);
    console.log(`Tenant "${id}" is deleted at ${admin.origin}, and its keys are revoked.`);
    return;
  }
  const patched = await admin.call("PATCH", `tenants/${id}`, given, { allow: [404] });
  const known = patched.status === 200;
  const { body } = known ? patched : await admin.call("POST", "tenants", { id, name: id, ...given });
  console.log(`Tenant "${id}" is ${known ? "changed" : "new"} at ${admin.origin}: ${JSON.stringify(body)}`);
});
