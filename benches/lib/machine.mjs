// Where figures were taken: what a reader has to know of the machine, and nothing of where on it things lie.
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import os from "node:os";

// Linux shows processor time in hundredths of a second; where there is no Linux, nothing is known.
const seconds = (ticks) => ticks.reduce((sum, some) => sum + Number(some) / 100, 0);
const read = (file) => readFile(file, "utf8").catch(() => "");

// Processor seconds in which a core was not idle, and those that a hypervisor took away from it.
async function secondsOfAll() {
  const [user, nice, system, , , irq, softirq, steal] = (await read("/proc/stat")).split("\n")[0].split(/ +/).slice(1);
  return seconds([user, nice, system, irq, softirq, steal]);
}

// Processor seconds of this process and of all that it started and that has ended.
async function secondsOfOurs() {
  const stat = await read("/proc/self/stat");
  return seconds(stat.slice(stat.lastIndexOf(")") + 2).split(" ").slice(11, 15));
}

/** How many cores are at work for others, from now until the returned function is called. What we start in between must
 *  have ended by then. */
export async function watchOthers() {
  const [began, all, ours] = [performance.now(), await secondsOfAll(), await secondsOfOurs()];
  return async () => {
    const others = (await secondsOfAll()) - all - ((await secondsOfOurs()) - ours);
    return Math.max(others, 0) / ((performance.now() - began) / 1000);
  };
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
