// The records that an operator keeps in KV: keys (hashed), tenants and the configuration.
import { createHash, randomBytes } from "node:crypto";

/** A key's text is shown once and never stored; `record` is what KV holds under `kvName`. */
export function makeKey(fields = {}) {
  const id = randomBytes(6).toString("hex");
  const text = `sk-${id}-${randomBytes(20).toString("hex")}`;
  const record = {
    version: 1,
    tenant: "demo",
    id,
    name: "a test's key",
    status: "active",
    expires_at: null,
    models: null,
    chunk_format: null,
    ...fields,
  };
  return { text, kvName: `key:${sha256(text)}`, record };
}

export function makeTenant(fields = {}) {
  return { version: 1, name: "Demo", status: "active", models: null, ...fields };
}

function sha256(text) {
  return createHash("sha256").update(text).digest("hex");
}
