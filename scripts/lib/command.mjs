// Runs a script's work: its error is a message and exit code 1, and nothing it started outlives it.
import { leaving, stopAll, stopOnSignals } from "./children.mjs";
import { explain } from "./step.mjs";

/// `cleanup` undoes what was begun, when the work fails or is interrupted.
export async function command(run, cleanup = () => {}) {
  stopOnSignals(cleanup);
  try {
    await run();
  } catch (error) {
    if (leaving()) return; // The signal's handler ends the process.
    await stopAll();
    cleanup();
    explain(error);
    process.exit(1);
  }
}
