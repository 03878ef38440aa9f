// Installs the tools of tools.mjs into the cache. A tool's folder appears there in one rename, after its
// program was built and has run, so a folder that exists is complete.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { cacheDir } from "./paths.mjs";
import { refuse, say, step } from "./step.mjs";
import { tool } from "./tools.mjs";

// These programs run for a second per build of ours, so a quick compilation is worth more than quick programs:
// it takes a minute of CPU time like this, and several with cargo's own release profile.
const QUICK_BUILD = {
  CARGO_PROFILE_RELEASE_OPT_LEVEL: "0",
  CARGO_PROFILE_RELEASE_LTO: "off",
  CARGO_PROFILE_RELEASE_CODEGEN_UNITS: "16",
  CARGO_PROFILE_RELEASE_DEBUG: "0",
  CARGO_PROFILE_RELEASE_STRIP: "symbols",
};

const WORK_PREFIX = ".installing-";
const A_DAY_MS = 24 * 3600 * 1000;
let workFolder = null;

/// Undoes an installation that was interrupted.
export function removeUnfinished() {
  if (workFolder) rmSync(workFolder, { recursive: true, force: true });
}

/// A set-up that was killed outright could not tidy up.
function removeAbandoned() {
  for (const name of readdirSync(cacheDir).filter((name) => name.startsWith(WORK_PREFIX))) {
    const path = join(cacheDir, name);
    if (Date.now() - statSync(path).mtimeMs > A_DAY_MS) rmSync(path, { recursive: true, force: true });
  }
}

/// Whether the program starts and is of the version that its folder's name says.
function works({ path, version }) {
  try {
    return execFileSync(path, ["--version"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).includes(version);
  } catch {
    return false;
  }
}

export async function installCargoTools(names) {
  const wanted = names.map(tool).filter((entry) => !works(entry));
  if (wanted.length === 0) return;
  for (const { name, folder } of wanted) {
    if (existsSync(folder)) say(`${name} in the cache does not run: it is installed again`);
  }
  say(`compiling ${wanted.map(({ name, version }) => `${name} ${version}`).join(" and ")}: once for this user, some minutes`);
  mkdirSync(cacheDir, { recursive: true });
  removeAbandoned();
  workFolder = mkdtempSync(join(cacheDir, WORK_PREFIX));
  // One after the other in one target folder: they share a third of their dependencies, and cargo keeps every
  // core busy by itself.
  for (const entry of wanted) await install(entry);
  removeUnfinished();
}

async function install(entry) {
  const { name, bin, version, features, folder } = entry;
  const fresh = join(workFolder, name);
  const options = { env: { ...QUICK_BUILD, CARGO_TARGET_DIR: join(workFolder, "target") } };
  const args = ["install", name, "--version", version, "--bin", bin, "--root", fresh, ...features];
  const label = `${name} ${version}`;
  try {
    await step(label, "cargo", [...args, "--locked"], options);
  } catch (error) {
    // A lock file can name a version that this registry (a mirror, say) does not have, or has withdrawn.
    if (!/failed to select a version|no matching package/.test(error.log ?? "")) throw error;
    say(`${label}: its own lock file cannot be satisfied here; installing with the newest dependencies instead`);
    await step(label, "cargo", args, options);
  }
  if (!works({ ...entry, path: join(fresh, "bin", bin) })) throw refuse(`${label} was installed but does not run`);
  publish(fresh, folder, entry);
}

function publish(fresh, folder, entry) {
  if (existsSync(folder) && !works(entry)) rmSync(folder, { recursive: true, force: true });
  try {
    renameSync(fresh, folder);
  } catch (error) {
    if (!works(entry)) throw error; // Else another set-up was first, and its result serves as well.
  }
}

