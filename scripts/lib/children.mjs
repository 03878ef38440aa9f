// Child processes that never outlive us. Each gets a process group of its own, so that one signal reaches
// everything it started, and so that Ctrl-C in a terminal reaches us first.
import { spawn } from "node:child_process";
import { constants } from "node:os";

const running = new Set();
let stopping = null;

export function start(command, args, options = {}) {
  const child = spawn(command, args, { ...options, detached: true });
  running.add(child);
  child.ended = new Promise((resolve) => {
    child.once("error", (error) => resolve({ error }));
    child.once("close", (code, signal) => resolve({ code, signal }));
  });
  child.ended.then(() => running.delete(child));
  return child;
}

function signalGroup(child, signal) {
  if (child.pid === undefined) return false;
  try {
    process.kill(-child.pid, signal);
    return true;
  } catch {
    return false; // The whole group has ended.
  }
}

/// Asks the child's group to end, and ends it by force after `grace` milliseconds. Waits for the group and
/// not for the child alone: a grandchild may take longer.
async function stop(child, grace) {
  const deadline = Date.now() + grace;
  let alive = signalGroup(child, "SIGTERM");
  while (alive && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    alive = signalGroup(child, 0);
  }
  if (alive) signalGroup(child, "SIGKILL");
}

export function stopAll(grace = 4000) {
  stopping ??= Promise.all([...running].map((child) => stop(child, grace)));
  return stopping;
}

let told = false;

/// Whether a signal told us to leave. What fails from then on fails because of it, and is not worth a word.
export const leaving = () => told;

/// Runs `cleanup` and leaves when we are told to: by Ctrl-C, by kill, or because the terminal is gone.
export function stopOnSignals(cleanup = () => {}) {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, async () => {
      if (told) return; // A second Ctrl-C changes nothing: the first is being carried out.
      told = true;
      await stopAll();
      cleanup();
      process.exit(128 + constants.signals[signal]);
    });
  }
}
