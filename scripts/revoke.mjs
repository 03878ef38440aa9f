// make revoke KEY=sk-…|KEY_ID=…|KEY_HASH=… [TENANT=…]
//
// The record stays, with its status "revoked". Of a key that was found somewhere nobody may know the tenant: without
// TENANT all of them are looked through.
import { openAdmin } from "./lib/admin.mjs";
import { optional, tenantId } from "./lib/arguments.mjs";
import { command } from "./lib/command.mjs";
import { hashOf, KEY_SHAPE } from "./lib/records.mjs";
import { refuse } from "./lib/step.mjs";

/// The names by which the API may know the key, the likelier one first. The key itself does not leave this machine.
function namesOfKey() {
  const [key, id, hash] = ["KEY", "KEY_ID", "KEY_HASH"].map(optional);
  if ([key, id, hash].filter((value) => value !== null).length !== 1) throw refuse("say which key: KEY=sk-…, KEY_ID=<its id> or KEY_HASH=<its SHA-256>");
  if (id !== null && !/^[a-z0-9]{8,32}$/.test(id)) throw refuse("KEY_ID must be 8 to 32 of a-z and 0-9: the middle of the key");
  if (hash !== null && !/^[0-9a-f]{64}$/.test(hash)) throw refuse("KEY_HASH must be 64 hexadecimal digits, in lower case");
  if (key === null) return { names: [id ?? hash], hash };
  const shape = key.match(KEY_SHAPE);
  if (!shape) throw refuse("KEY does not look like a key (sk-<id>-<secret>)");
  return { names: [shape[1], hashOf(key)], hash: hashOf(key) };
}

await command(async () => {
  const { names, hash } = namesOfKey();
  const given = optional("TENANT");
  const tenant = given && tenantId(given);
  const admin = openAdmin();
  for await (const { id } of tenant ? [{ id: tenant }] : admin.all("tenants")) {
    for (const name of names) {
      const { status, body } = await admin.call("GET", `tenants/${id}/keys/${name}`, undefined, { allow: [404, 409] });
      if (status !== 200 || (hash !== null && body.hash !== hash)) continue;
      await admin.call("DELETE", `tenants/${id}/keys/${body.id}`);
      console.log(`Key ${body.id} of tenant "${id}" is revoked at ${admin.origin}: its ledger admits nothing with it from now on.`);
      return;
    }
  }
  throw refuse(`${admin.origin} has no such key`);
});
