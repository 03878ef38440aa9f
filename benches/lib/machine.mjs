// Where figures were taken: what a reader has to know of the machine, and nothing of where on it things lie.
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import os from "node:os";

const CORES_EVERY_MS = 500;

/** How many cores are at work, seen over half a second: for others, as long as nothing of ours runs. */
export async function coresBusy() {
  const times = () => os.cpus().map((cpu) => [cpu.times.idle, Object.values(cpu.times).reduce((a, b) => a + b)]);
  const before = times();
  await new Promise((resolve) => setTimeout(resolve, CORES_EVERY_MS));
  return times().reduce((busy, [idle, all], core) => {
    const passed = all - before[core][1];
    return passed > 0 ? busy + 1 - (idle - before[core][0]) / passed : busy;
  }, 0);
}

// What a program says of its version, as far as it is there.
function version(program, ...args) {
  try {
    return execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return "?";
  }
}

export function machine() {
  const cpus = os.cpus();
  return {
    cpu: cpus[0].model.trim(),
    cores: cpus.length,
    memory_gb: Math.round(os.totalmem() / 1e9),
    system: `${os.type()} ${os.release()} ${os.arch()}`,
    workerd: createRequire(import.meta.url)("workerd/package.json").version,
    node: process.versions.node,
    rustc: version("rustc", "--version").replace(/^rustc /, ""),
    commit: version("git", "-C", import.meta.dirname, "describe", "--always", "--dirty"),
  };
}
