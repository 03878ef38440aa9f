// One long step of a set-up or build: quiet while it is quick, a progress line now and then while it is not,
// and the end of its log where it fails.
import { createWriteStream, mkdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { createInterface } from "node:readline";
import { start } from "./children.mjs";
import { devDir, root } from "./paths.mjs";

const PROGRESS_EVERY_MS = 15_000;
const begun = Date.now();

export function say(text) {
  const seconds = Math.round((Date.now() - begun) / 1000);
  console.log(`[${String(seconds).padStart(4)} s] ${text}`);
}

export class StepFailed extends Error {
  constructor(name, reason, log, logPath) {
    super(`${name} failed: ${reason} (all it said: ${relative(root, logPath)})`);
    this.log = log;
  }
}

/// Runs a command with its output in a log file. Resolves to its output, or throws `StepFailed`.
/// `quiet` leaves out the lines for the beginning and the end.
export async function step(name, command, args, { env = {}, cwd, quiet = false } = {}) {
  mkdirSync(join(devDir, "log"), { recursive: true });
  const logPath = join(devDir, "log", `${name.replace(/[^\w.-]+/g, "-")}.log`);
  const log = createWriteStream(logPath);
  if (!quiet) say(`${name} …`);
  const since = Date.now();
  let last = "";
  const child = start(command, args, { cwd, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  for (const stream of [child.stdout, child.stderr]) {
    stream.pipe(log, { end: false });
    createInterface({ input: stream }).on("line", (line) => { last = line.trim().slice(0, 70) || last; });
  }
  const progress = setInterval(() => say(`${name} … ${last}`), PROGRESS_EVERY_MS);
  const end = await child.ended;
  clearInterval(progress);
  await new Promise((resolve) => log.end(resolve));
  const output = readFileSync(logPath, "utf8");
  if (end.error) throw new StepFailed(name, end.error.message, output, logPath);
  if (end.code !== 0) throw new StepFailed(name, end.signal ?? `exit code ${end.code}`, output, logPath);
  if (!quiet) say(`${name}: done in ${Math.round((Date.now() - since) / 1000)} s`);
  return output;
}

/// Prints why a script ends, and the end of the log of the step that failed.
export function explain(error) {
  if (error.log) console.error(error.log.trimEnd().split("\n").slice(-80).join("\n"));
  console.error(`error: ${error instanceof StepFailed || error.plain ? error.message : error.stack}`);
}

/// An error of the person at the keyboard: its message is all there is to say.
export function refuse(message) {
  return Object.assign(new Error(message), { plain: true });
}
