// make tenant TENANT=… [STATUS=active|suspended] [NAME=…] [MODELS=a,b|all] [REMOTE=1]
//
// Makes a tenant, or changes what is given and leaves the rest.
import { flag, modelList, oneOf, optional, required, tenantId } from "./lib/arguments.mjs";
import { command } from "./lib/command.mjs";
import { openKv } from "./lib/kv.mjs";
import { tenantEntry, tenantRecord } from "./lib/records.mjs";

await command(async () => {
  const id = tenantId(required("TENANT", "make tenant TENANT=acme STATUS=suspended"));
  const status = oneOf("STATUS", ["active", "suspended"]);
  const name = optional("NAME");
  const models = optional("MODELS") === "all" ? { models: null } : modelList() && { models: modelList() };
  const kv = openKv({ remote: flag("REMOTE") });
  const known = await kv.get(tenantEntry(id));
  const record = {
    ...(known ?? tenantRecord({ name: id })),
    ...(status && { status }),
    ...(name && { name }),
    ...models,
  };
  await kv.put({ [tenantEntry(id)]: record });
  console.log(`Tenant "${id}" is ${known ? "changed" : "new"} in the ${kv.name}: ${JSON.stringify(record)}`);
});
