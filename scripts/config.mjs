// make config FILE=config.json [CHECK=1]
//
// Stores a configuration, if the Worker finds it good. CHECK=1 only asks.
import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { openAdmin } from "./lib/admin.mjs";
import { flag, required } from "./lib/arguments.mjs";
import { command } from "./lib/command.mjs";
import { refuse } from "./lib/step.mjs";

await command(async () => {
  const file = resolve(required("FILE", "make config FILE=config/dev.json"));
  if (!existsSync(file)) throw refuse(`there is no file ${file}`);
  const document = readFileSync(file, "utf8");
  const admin = openAdmin();
  if (flag("CHECK")) {
    await admin.call("POST", "config/check", document);
    console.log(`${file} is good. Nothing was stored.`);
    return;
  }
  await admin.call("PUT", "config", document);
  console.log(`The configuration is stored at ${admin.origin}. Running Workers take it up within about a minute.`);
});
