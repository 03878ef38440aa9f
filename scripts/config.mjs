// make config FILE=config.json [REMOTE=1]
//
// Checks a configuration with the Worker's own code, and stores it only if the Worker would take it.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { flag, required } from "./lib/arguments.mjs";
import { command } from "./lib/command.mjs";
import { openKv } from "./lib/kv.mjs";
import { root } from "./lib/paths.mjs";
import { CONFIG_ENTRY } from "./lib/records.mjs";
import { refuse } from "./lib/step.mjs";

await command(async () => {
  const file = resolve(required("FILE", "make config FILE=config/dev.json"));
  if (!existsSync(file)) throw refuse(`there is no file ${file}`);
  const checked = spawnSync("cargo", ["run", "--quiet", "--example", "check_config", "--", file], {
    cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"],
  });
  if (checked.status !== 0) throw refuse(`${file} is not stored:\n${checked.stdout ?? ""}${checked.stderr ?? checked.error}`.trimEnd());
  const kv = openKv({ remote: flag("REMOTE") });
  await kv.put({ [CONFIG_ENTRY]: JSON.parse(readFileSync(file, "utf8")) });
  console.log(`The configuration is in the ${kv.name}. Running Workers take it up within about a minute.`);
});
