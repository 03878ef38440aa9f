// make revoke KEY_HASH=…|KEY=sk-… [REMOTE=1]
//
// The record stays, with its status "revoked".
import { flag, optional } from "./lib/arguments.mjs";
import { command } from "./lib/command.mjs";
import { openKv } from "./lib/kv.mjs";
import { hashOf, keyEntry, KEY_SHAPE } from "./lib/records.mjs";
import { refuse } from "./lib/step.mjs";

function hashArgument() {
  const key = optional("KEY");
  const hash = optional("KEY_HASH");
  if ((key === null) === (hash === null)) throw refuse("say which key: KEY_HASH=<its SHA-256, as make key printed it> or KEY=sk-…");
  if (key !== null) {
    if (!KEY_SHAPE.test(key)) throw refuse("KEY does not look like a key (sk-<id>-<secret>)");
    return hashOf(key);
  }
  if (!/^[0-9a-f]{64}$/.test(hash)) throw refuse("KEY_HASH must be 64 hexadecimal digits, in lower case");
  return hash;
}

await command(async () => {
  const hash = hashArgument();
  const kv = openKv({ remote: flag("REMOTE") });
  const record = await kv.get(keyEntry(hash));
  if (record === null) throw refuse(`the ${kv.name} has no such key`);
  await kv.put({ [keyEntry(hash)]: { ...record, status: "revoked" } });
  console.log(`Key ${record.id} of tenant "${record.tenant}" is revoked in the ${kv.name}.`);
  console.log("A running Worker that has just seen it may accept it for about a minute more.");
});
