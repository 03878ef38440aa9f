// What local development keeps to itself: this clone's demo key, and the secrets that wrangler gives the Worker.
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { devDir, root } from "./paths.mjs";
import { KEY_SHAPE } from "./records.mjs";

const PRIVATE = { mode: 0o600 };
const demoKeyPath = join(devDir, "demo-key");
const secretsPath = join(root, ".dev.vars");

/// The clone's demo key, or null before the first one is made.
export function keptDemoKey() {
  const kept = existsSync(demoKeyPath) ? readFileSync(demoKeyPath, "utf8").trim() : "";
  return KEY_SHAPE.test(kept) ? kept : null;
}

export function keepDemoKey(key) {
  mkdirSync(devDir, { recursive: true });
  writeFileSync(demoKeyPath, `${key}\n`, PRIVATE);
}

const secretLines = () => (existsSync(secretsPath) ? readFileSync(secretsPath, "utf8").split("\n").filter(Boolean) : []);

const secretIn = (lines, name) => lines.find((line) => line.startsWith(`${name}=`))?.slice(name.length + 1) || null;

/// The local Worker's admin token, or null before the first `make dev`.
export const devAdminToken = () => secretIn(secretLines(), "ADMIN_TOKEN");

/// Writes our secrets into .dev.vars, from which `wrangler dev` takes them, and leaves every other line there.
/// A null removes the name. Gives the key that the demo upstream demands, and the token of the admin API.
export function writeSecrets({ upstreamKey }) {
  const lines = secretLines();
  const made = (name) => secretIn(lines, name) ?? randomBytes(24).toString("hex");
  const ours = { ADMIN_TOKEN: made("ADMIN_TOKEN"), DEMO_UPSTREAM_KEY: made("DEMO_UPSTREAM_KEY"), UPSTREAM_KEY: upstreamKey };
  const others = lines.filter((line) => !(line.split("=")[0] in ours));
  const mine = Object.entries(ours).filter(([, value]) => value !== null).map(([name, value]) => `${name}=${value}`);
  writeFileSync(secretsPath, [...others, ...mine, ""].join("\n"), PRIVATE);
  return { demoUpstreamKey: ours.DEMO_UPSTREAM_KEY, adminToken: ours.ADMIN_TOKEN };
}
