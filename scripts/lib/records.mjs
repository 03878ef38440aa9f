// API keys, and the records of keys and tenants as the Worker reads them from KV.
import { createHash, randomInt } from "node:crypto";

const LOWER = "abcdefghijklmnopqrstuvwxyz0123456789";
const LETTERS = LOWER + LOWER.slice(0, 26).toUpperCase();

const randomText = (alphabet, length) => Array.from({ length }, () => alphabet[randomInt(alphabet.length)]).join("");

/// `sk-<id>-<secret>`: the id may be shown and logged, the secret (238 bits) never.
export function makeKey(idPrefix = "") {
  const id = idPrefix + randomText(LOWER, 12);
  return { id, key: `sk-${id}-${randomText(LETTERS, 40)}` };
}

export const KEY_SHAPE = /^sk-[a-z0-9]{8,32}-[A-Za-z0-9]{32,64}$/;

export const hashOf = (key) => createHash("sha256").update(key).digest("hex");

export const keyEntry = (hash) => `key:${hash}`;
export const tenantEntry = (id) => `tenant:${id}`;
export const CONFIG_ENTRY = "config";

export function keyRecord({ tenant, id, name = "", expires_at = null, models = null, chunk_format = null }) {
  return { version: 1, tenant, id, name, status: "active", expires_at, models, chunk_format };
}

export function tenantRecord({ name, status = "active", models = null }) {
  return { version: 1, name, status, models };
}
