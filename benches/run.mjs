// Measures our Worker, with quotas and without, against a pass-through worker on bare workerd, and its ledger against an
// empty object, in turns, and prints ratios.
// A wrong answer anywhere voids the run. benches/README.md says how to read the figures.
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { compatibility, ledgerAlone, ours, passThrough, records } from "./workerd.mjs";

const HERE = import.meta.dirname;
const ROOT = path.dirname(HERE);
const TOOLS = path.join(HERE, "tools/target/release");
const WORKERD = createRequire(import.meta.url)("workerd").default;
const CONNECTIONS = 16;
// Text events of a stream and its finish event, as benches/tools/src/script.rs writes them.
const EVENTS = 201;

const SECONDS = setting("BENCH_SECONDS", 3, 0.1, 60);
const ROUNDS = setting("BENCH_ROUNDS", 5, 1, 50);

// What is measured. Each body is the same for every target; straight and pass-through choose the upstream's way of
// writing by path, our Worker by model.
const KINDS = [
  { name: "not streamed", model: "one", stream: false },
  { name: "stream, 1 event a write", model: "one", stream: true },
  { name: "stream, 16 events a write", model: "many", stream: true },
];

// The ledger alone: each request makes two calls to one object, and is answered so.
const PAIRS = { name: "two calls to one object", says: "settled" };

// Everything that was started and is not yet gone, and the folder of copies that workerd reads.
const children = new Set();
let folder;

function setting(name, otherwise, least, most) {
  const value = Number(process.env[name] ?? otherwise);
  if (value >= least && value <= most) return value;
  console.error(`bench: ${name} must be a number from ${least} to ${most}`);
  process.exit(1);
}

function start(program, args, stdio) {
  const child = spawn(program, args, { stdio });
  children.add(child);
  child.gone = new Promise((resolve) => {
    // "close" and not "exit": all that it wrote has been read by then.
    child.once("close", (code, signal) => resolve(code ?? signal));
    child.once("error", resolve);
  }).finally(() => children.delete(child));
  return child;
}

async function stopAll() {
  for (const child of children) child.kill("SIGKILL");
  await Promise.all([...children].map((child) => child.gone));
  if (folder) await rm(folder, { recursive: true, force: true });
}

/** The first line that a starting program writes, or an error where it ends before it does. */
async function firstLine(child, stream) {
  const line = once(createInterface({ input: stream }), "line").then(([text]) => text);
  const gone = child.gone.then((how) => { throw new Error(`${child.spawnfile} ended with ${how}`); });
  return Promise.race([line, gone]);
}

async function startUpstream() {
  const child = start(path.join(TOOLS, "upstream"), [], ["pipe", "pipe", "inherit"]);
  return { name: "straight", port: Number(await firstLine(child, child.stdout)), path: (kind) => `/${kind.model}/v1/completions` };
}

/** `configOf` gets an empty folder of the target's own and answers the configuration. */
async function startWorkerd(name, configOf, pathOf) {
  const file = path.join(folder, `${name}.capnp`);
  const disk = path.join(folder, `${name} disk`);
  await mkdir(disk);
  await writeFile(file, configOf(disk));
  const child = start(WORKERD, ["serve", file, "--control-fd=3"], ["ignore", "ignore", "inherit", "pipe"]);
  const { port } = JSON.parse(await firstLine(child, child.stdio[3]));
  return { name, port, path: pathOf, pid: child.pid };
}

const bodyOf = (kind) =>
  JSON.stringify({ model: kind.model, prompt: "Say this is a test", max_tokens: 256, ...(kind.stream && { stream: true }) });

/** What a target says, as text: the load generator counts events, this reads them. */
async function ask(target, kind, key) {
  const answer = await fetch(`http://127.0.0.1:${target.port}${target.path(kind)}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
    body: bodyOf(kind),
    signal: AbortSignal.timeout(10_000),
  });
  const body = await answer.text();
  if (answer.status !== 200) throw new Error(`${target.name} answered ${answer.status}: ${body}`);
  if (!kind.stream) return JSON.parse(body).choices[0].text;
  const events = body.split("\n\n").filter((event) => event.startsWith("data: {"));
  return events.map((event) => JSON.parse(event.slice(6)).choices[0].text).join("");
}

/** CPU seconds that a process has used, where the system tells. */
async function cpuSeconds(pid) {
  const line = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => null);
  if (line === null) return NaN;
  // After the name in parentheses; user and system time, in the hundredths of a second that Linux always shows.
  const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

async function load(target, kind, key, seconds) {
  const args = { port: target.port, path: target.path(kind), body: bodyOf(kind), bearer: key };
  Object.assign(args, { connections: CONNECTIONS, seconds, ...(kind.stream && { events: EVENTS }), ...(kind.says && { says: kind.says }) });
  const cpuBefore = await cpuSeconds(target.pid);
  const child = start(
    path.join(TOOLS, "load"),
    Object.entries(args).flatMap(([name, value]) => [`--${name}`, String(value)]),
    ["ignore", "pipe", "inherit"],
  );
  const result = JSON.parse(await firstLine(child, child.stdout));
  if (result.errors > 0 || (await child.gone) !== 0) {
    throw new Error(`wrong answers from ${target.name} at ${kind.name}: ${JSON.stringify(result)}`);
  }
  const cpu = (await cpuSeconds(target.pid)) - cpuBefore;
  return { ...result, perSecond: result.requests / result.seconds, cpuMicros: (cpu * 1e6) / result.requests };
}

/** How many cores are at work for others, seen over half a second before anything of ours runs. */
async function coresBusy() {
  const times = () => os.cpus().map((cpu) => [cpu.times.idle, Object.values(cpu.times).reduce((a, b) => a + b)]);
  const before = times();
  await new Promise((resolve) => setTimeout(resolve, 500));
  return times().reduce((busy, [idle, all], core) => {
    const passed = all - before[core][1];
    return passed > 0 ? busy + 1 - (idle - before[core][0]) / passed : busy;
  }, 0);
}

function spread(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, low: sorted[0], high: sorted.at(-1) };
}

const whole = (value) => (Number.isFinite(value) ? Math.round(value).toLocaleString("en-US") : "?");
const tenths = (value) => value.toFixed(1);
const ratio = (value) => (Number.isFinite(value) ? value.toFixed(2) : "?");
const shown = (values, format) => {
  const { median, low, high } = spread(values);
  return `${format(median)} (${format(low)}–${format(high)})`;
};

function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const line = (row) => `| ${row.map((cell, column) => cell.padEnd(widths[column])).join(" | ")} |`;
  const rule = `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`;
  return [line(rows[0]), rule, ...rows.slice(1).map(line)].join("\n");
}

// What is measured in turns, and which pairs are compared.
const TARGETS = ["pass-through", "quota off", "quota on"];
const RATIOS = [["quota off", "pass-through"], ["quota on", "pass-through"], ["quota on", "quota off"]];

/** One table row a kind: medians over the rounds, and the ratios of each round's own pairs. */
function compare(kinds, results, field, format, { targets = TARGETS, ratios = RATIOS, context = [] } = {}) {
  const rows = kinds.map((kind) => {
    const of = (target) => results.get(`${kind.name} ${target}`).map((result) => result[field]);
    return [
      kind.name,
      ...context.map((target) => format(spread(of(target)).median)),
      ...targets.map((target) => shown(of(target), format)),
      ...ratios.map(([one, other]) => shown(of(one).map((value, round) => value / of(other)[round]), ratio)),
    ];
  });
  return [[...context, ...targets, ...ratios.map((pair) => pair.join(" / "))], ...rows];
}

/** The same as a table; `title` says what its figures are. */
function comparison(title, ...args) {
  const [head, ...rows] = compare(...args);
  return table([[title, ...head], ...rows]);
}

async function main() {
  const began = Date.now();
  const busy = await coresBusy();
  const key = `sk-benchmark-${randomBytes(16).toString("hex")}`;
  folder = await mkdtemp(path.join(os.tmpdir(), "completions-edge-bench-"));
  for (const file of ["build/index.js", "build/index_bg.wasm", "benches/workers/pass_through.js", "benches/workers/kv.js", "benches/workers/ledger_client.js"]) {
    await copyFile(path.join(ROOT, file), path.join(folder, path.basename(file)));
  }
  const compat = compatibility(await readFile(path.join(ROOT, "wrangler.toml"), "utf8"));

  const straight = await startUpstream();
  const through = await startWorkerd("pass-through", () => passThrough(compat, straight.port), straight.path);
  const worker = (name, quota) =>
    startWorkerd(name, (disk) => ours(compat, records(straight.port, key, quota), disk), () => "/v1/completions");
  const [off, on] = [await worker("quota off", false), await worker("quota on", true)];
  const objects = await startWorkerd("objects", (disk) => ledgerAlone(compat, disk));
  const [empty, ledger] = ["empty", "ledger"].map((name) => ({ ...objects, name, path: () => `/${name}` }));

  // What is measured: the straight line is context and needs less time; what is compared stands side by side.
  const turns = KINDS.flatMap((kind) => [[kind, straight, SECONDS / 3], ...[through, off, on].map((target) => [kind, target, SECONDS])]);
  turns.push([PAIRS, empty, SECONDS], [PAIRS, ledger, SECONDS]);

  for (const kind of KINDS) {
    const expected = await ask(through, kind, key);
    for (const target of [off, on]) {
      if ((await ask(target, kind, key)) !== expected || !expected.endsWith(" word199")) throw new Error(`the Worker's text differs at ${kind.name}`);
    }
  }
  for (const [kind, target] of turns) await load(target, kind, key, Math.min(1, SECONDS));
  console.error("bench: answers are right, everything is warm");

  const results = new Map();
  for (let round = 1; round <= ROUNDS; round += 1) {
    for (const [kind, target, seconds] of turns) {
      const name = `${kind.name} ${target.name}`;
      results.set(name, [...(results.get(name) ?? []), await load(target, kind, key, seconds)]);
    }
    console.error(`bench: round ${round} of ${ROUNDS} done, ${Math.round((Date.now() - began) / 1000)} s`);
  }

  const { size } = await stat(path.join(folder, "index_bg.wasm"));
  const { version } = createRequire(import.meta.url)("workerd/package.json");
  const cpus = os.cpus();
  const alone = { targets: ["empty", "ledger"], ratios: [["ledger", "empty"]] };
  console.log(`
BENCH_SECONDS=${SECONDS} BENCH_ROUNDS=${ROUNDS} make bench
${cpus.length} cores, ${cpus[0].model.trim()}, ${os.type()} ${os.release()}, ${busy.toFixed(1)} of the cores at work for others before the run
workerd ${version}, index_bg.wasm ${whole(size / 1000)} kB, ${CONNECTIONS} connections, no errors
Medians of ${ROUNDS} rounds taken in turns (lowest–highest); ratios are of each round's pair.

${comparison("answers a second", KINDS, results, "perSecond", whole, { context: ["straight"] })}

${comparison("workerd's CPU, µs an answer", KINDS, results, "cpuMicros", whole)}

${comparison("median ms to the first byte, at this load", KINDS, results, "ttft_p50_ms", tenths)}

${comparison("the ledger alone: reserve and settle, pairs a second", [PAIRS], results, "perSecond", whole, alone)}

${comparison("workerd's CPU, µs a pair", [PAIRS], results, "cpuMicros", whole, alone)}
`);
  if (busy > 0.3) console.log("The machine was busy before the run: trust the figures less than usual.\n");
}

let interrupted = false;
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.once(signal, () => {
    interrupted = true;
    stopAll().finally(() => process.exit(130));
  });
}
try {
  await main();
} catch (error) {
  if (!interrupted) console.error(`bench: VOID: ${error.message}`);
  process.exitCode = 1;
} finally {
  await stopAll();
}
