// `npm ci`, but only when the lock file has changed since the last one that succeeded.
import { createHash } from "node:crypto";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { npmBin, root } from "./paths.mjs";
import { step } from "./step.mjs";

// Inside the folder that it speaks of: npm deletes both at once, so an interrupted run leaves no stamp.
const stampPath = join(root, "node_modules", ".installed-from");

function wantedStamp() {
  const hash = createHash("sha256");
  for (const file of ["package.json", "package-lock.json"]) hash.update(readFileSync(join(root, file)));
  return `${hash.digest("hex")} ${process.platform} ${process.arch}\n`;
}

export async function installNpmPackages() {
  const wanted = wantedStamp();
  if (existsSync(stampPath) && readFileSync(stampPath, "utf8") === wanted) return;
  // Errors only: wrangler's wish for a newer Node is met by the package `node`, which npm cannot know.
  await step("npm packages", "npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"], { cwd: root });
  for (const program of ["node", "esbuild", "workerd"]) execFileSync(npmBin(program), ["--version"], { stdio: "ignore" });
  writeFileSync(stampPath, wanted);
}
