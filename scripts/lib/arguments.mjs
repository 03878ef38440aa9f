// The arguments of the operator's commands. make hands them over as environment variables: TENANT=…, CREATE=1.
import { refuse } from "./step.mjs";

const text = (name) => process.env[name]?.trim() || null;

export const flag = (name) => !["", "0", "false", "no"].includes(process.env[name]?.trim() ?? "");

export function required(name, example) {
  return text(name) ?? fail(`${name} is missing. For example: ${example}`);
}

export const optional = text;

export function oneOf(name, allowed) {
  const value = text(name);
  if (value === null || allowed.includes(value)) return value;
  return fail(`${name} must be one of ${allowed.join(", ")}; it is "${value}"`);
}

export function tenantId(value) {
  if (/^[a-z0-9][a-z0-9-]{0,62}$/.test(value)) return value;
  return fail(`TENANT must be 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit; it is "${value}"`);
}

/// LIMITS=requests_per_minute=60,tokens_per_day=none as an object, or null where it is not given. None takes a limit
/// away. Which limits there are, the Worker knows.
export function limits() {
  const value = text("LIMITS");
  if (value === null) return null;
  return Object.fromEntries(value.split(",").map((limit) => {
    const [, name, number] = limit.trim().match(/^(\w+)=(\d{1,15}|none)$/) ?? fail(`LIMITS must be such as requests_per_minute=60,tokens_per_day=none; it is "${value}"`);
    return [name, number === "none" ? null : Number(number)];
  }));
}

/// A whole number of seconds, or null.
export function seconds(name) {
  const value = text(name);
  if (value === null || /^\d{1,9}$/.test(value)) return value && Number(value);
  return fail(`${name} must be a number of seconds; it is "${value}"`);
}

/// MODELS=a,b as a list, or null (every model) where it is not given.
export function modelList() {
  const value = text("MODELS");
  if (value === null) return null;
  const models = value.split(",").map((model) => model.trim());
  if (models.some((model) => model === "")) fail(`MODELS must be names with a comma between them; it is "${value}"`);
  return [...new Set(models)];
}

/// EXPIRES as unix seconds, or null: a date (its beginning, UTC), an ISO date and time, or +30d, +12h from now.
export function expiry(now = Date.now()) {
  const value = text("EXPIRES");
  if (value === null) return null;
  const relative = value.match(/^\+(\d{1,6})([dh])$/);
  const at = relative ? now + Number(relative[1]) * (relative[2] === "d" ? 86_400_000 : 3_600_000) : absolute(value);
  if (!Number.isFinite(at)) fail(`EXPIRES must be a date such as 2027-01-31, an ISO date and time, or +30d or +12h; it is "${value}"`);
  if (at <= now) fail(`EXPIRES has passed: ${new Date(at).toISOString()}`);
  return Math.floor(at / 1000);
}

/// Only the ISO form: Date.parse alone takes almost anything, 2027-02-30 among it.
function absolute(value) {
  if (!/^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?$/.test(value)) return NaN;
  const day = new Date(`${value.slice(0, 10)}T00:00:00Z`);
  if (Number.isNaN(day.getTime()) || day.toISOString().slice(0, 10) !== value.slice(0, 10)) return NaN;
  return Date.parse(/T.*(Z|[+-]\d{2}:\d{2})$/.test(value) || value.length === 10 ? value : `${value}Z`);
}

function fail(message) {
  throw refuse(message);
}
