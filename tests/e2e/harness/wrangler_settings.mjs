// What wrangler.toml says about the runtime, so that the tests never run under other settings than a deploy.
// Only three simple lines are read; a TOML parser would be a dependency for nothing.
import { readFileSync } from "node:fs";

export function readWranglerSettings(path) {
  const toml = readFileSync(path, "utf8");
  const date = toml.match(/^compatibility_date\s*=\s*"([^"]+)"/m)?.[1];
  const flags = toml.match(/^compatibility_flags\s*=\s*\[([^\]]*)\]/m)?.[1];
  if (!date || flags === undefined) throw new Error(`${path} names no compatibility_date and compatibility_flags`);
  return {
    compatibilityDate: date,
    compatibilityFlags: [...flags.matchAll(/"([^"]+)"/g)].map((match) => match[1]),
  };
}
