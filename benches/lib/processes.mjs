// Everything that the benchmark starts: nothing of it outlives the run.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

const children = new Set();

export function start(program, args, options) {
  const child = spawn(program, args, options);
  children.add(child);
  child.gone = new Promise((resolve) => {
    // "close" and not "exit": all that it wrote has been read by then.
    child.once("close", (code, signal) => resolve(code ?? signal));
    child.once("error", resolve);
  }).finally(() => children.delete(child));
  return child;
}

export async function stop(...some) {
  for (const child of some) child.kill("SIGKILL");
  await Promise.all(some.map((child) => child.gone));
}

export const stopAll = () => stop(...children);

/** The first line that a starting program writes, or an error where it ends before it does. */
export async function firstLine(child, stream) {
  const line = once(createInterface({ input: stream }), "line").then(([text]) => text);
  const gone = child.gone.then((how) => {
    throw new Error(`${child.spawnfile} ended with ${how}`);
  });
  return Promise.race([line, gone]);
}
