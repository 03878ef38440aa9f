// Client programs in other languages: a job list goes in as JSON, results come out as JSON.
import { spawn } from "node:child_process";

const LIMIT_MS = 60_000;

/** Runs a program to its end and answers what it printed. Its environment holds no key or address of a user's. */
export async function runProgram(command, args, input) {
  const { PATH, HOME } = process.env;
  const child = spawn(command, args, { env: { PATH, HOME, NO_PROXY: "127.0.0.1" }, timeout: LIMIT_MS });
  const output = Promise.all([collect(child.stdout), collect(child.stderr)]);
  // A program that ends without reading its input says why on standard error: that is the failure to show.
  child.stdin.on("error", () => {});
  child.stdin.end(input);
  const [code, signal] = await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (...end) => resolve(end));
  });
  const [stdout, stderr] = await output;
  if (code !== 0) throw new Error(`${command} ended with ${signal ?? code}: ${stderr || stdout}`);
  return stdout;
}

export async function runJobs(command, args, settings) {
  return JSON.parse(await runProgram(command, args, JSON.stringify(settings)));
}

async function collect(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces).toString("utf8");
}
