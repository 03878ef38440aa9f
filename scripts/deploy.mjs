// make dry-run, make deploy: what would be uploaded and how big it is, then (deploy) the upload.
import { bundleSize, tooLarge } from "./lib/bundle.mjs";
import { command } from "./lib/command.mjs";
import { refuse } from "./lib/step.mjs";
import { demandNamespace, startWrangler, wrangler } from "./lib/wrangler.mjs";

const dryRunOnly = process.argv.includes("--dry-run");

await command(async () => {
  if (!dryRunOnly) demandNamespace();
  process.stdout.write(await wrangler(["deploy", "--dry-run"]));
  console.log(`Bundle: ${bundleSize()}`);
  const why = tooLarge();
  if (why) throw refuse(why);
  if (dryRunOnly) return;
  const { code, error } = await startWrangler(["deploy"], { stdio: "inherit" }).ended;
  if (error) throw error;
  if (code !== 0) throw refuse("wrangler deploy failed");
});
