// One run of the benchmark: what everything in it shares, and that nothing of it stays behind, however it ends.
import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { stopAll } from "./processes.mjs";
import { compatibility } from "./workerd.mjs";

const ROOT = path.resolve(import.meta.dirname, "../..");

/** Calls `main` with a run: the client's key, an empty folder, the compatibility of all Workers. An error of it voids the
 *  run. */
export async function inRun(main) {
  const run = { key: `sk-benchmark-${randomBytes(16).toString("hex")}` };
  let interrupted = false;
  const cleanUp = async () => {
    await stopAll();
    if (run.folder) await rm(run.folder, { recursive: true, force: true });
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.once(signal, () => {
      interrupted = true;
      cleanUp().finally(() => process.exit(130));
    });
  }
  try {
    run.folder = await mkdtemp(path.join(os.tmpdir(), "completions-edge-bench-"));
    run.compat = compatibility(await readFile(path.join(ROOT, "wrangler.toml"), "utf8"));
    await main(run);
  } catch (error) {
    if (!interrupted) console.error(`bench: VOID: ${error.message}`);
    process.exitCode = 1;
  } finally {
    await cleanUp();
  }
}
