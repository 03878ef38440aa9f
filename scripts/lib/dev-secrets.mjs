// What local development keeps to itself: this clone's demo key, and the secrets that wrangler gives the Worker.
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { devDir, root } from "./paths.mjs";
import { KEY_SHAPE, makeKey } from "./records.mjs";

const PRIVATE = { mode: 0o600 };

/// The clone's demo key, made at random the first time.
export function demoKey() {
  const path = join(devDir, "demo-key");
  const kept = existsSync(path) ? readFileSync(path, "utf8").trim() : "";
  if (KEY_SHAPE.test(kept)) return { key: kept, id: kept.split("-")[1] };
  const made = makeKey("demo");
  mkdirSync(devDir, { recursive: true });
  writeFileSync(path, `${made.key}\n`, PRIVATE);
  return made;
}

/// Writes our secrets into .dev.vars, from which `wrangler dev` takes them, and leaves every other line there.
/// A null removes the name. Gives the key that the demo upstream demands.
export function writeSecrets({ upstreamKey }) {
  const path = join(root, ".dev.vars");
  const lines = existsSync(path) ? readFileSync(path, "utf8").split("\n").filter(Boolean) : [];
  const kept = lines.find((line) => line.startsWith("DEMO_UPSTREAM_KEY="))?.slice("DEMO_UPSTREAM_KEY=".length);
  const demoUpstreamKey = kept || randomBytes(24).toString("hex");
  const ours = { DEMO_UPSTREAM_KEY: demoUpstreamKey, UPSTREAM_KEY: upstreamKey };
  const others = lines.filter((line) => !(line.split("=")[0] in ours));
  const mine = Object.entries(ours).filter(([, value]) => value !== null).map(([name, value]) => `${name}=${value}`);
  writeFileSync(path, [...others, ...mine, ""].join("\n"), PRIVATE);
  return demoUpstreamKey;
}
