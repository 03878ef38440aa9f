// Counts the instructions of a request, by valgrind. The time that one takes changes by a third with what else the host
// does, and this count by some hundredths, with what V8 collects meanwhile. benches/README.md says how to read it.
import { execFileSync } from "node:child_process";
import { mkdtemp, readFile, readdir } from "node:fs/promises";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { load } from "./lib/load.mjs";
import { stop } from "./lib/processes.mjs";
import { inRun } from "./lib/run.mjs";
import { settings } from "./lib/settings.mjs";
import { SYSTEMS, startUpstream } from "./lib/systems.mjs";
import { digits, table, whole } from "./lib/tables.mjs";
import { WORKLOADS } from "./lib/workloads.mjs";

const WORKLOAD = WORKLOADS.find(({ name }) => name === "not-streamed-16");
// Quotas on are left out: a slice lasts for a time, and so for fewer requests the slower they are.
const COUNTED = ["pass-through", "js-rewriter", "js-least", "gateway-quota-off", "gateway-other-build"];
// What runs at 1/10 of its speed warms up for long enough, and what runs at 1/50 has enough requests.
const WARM_UP = 20;
const COUNT = 10;

// Work of V8 that comes now and then, and would make a count of some hundred requests a matter of luck.
const COMPILES = /compiler::|turboshaft|maglev|Liftoff|internal::wasm::|interpreter::|baseline|LiveRange|Assembler|Zone/;
const COLLECTS = /Scaveng|MarkCompact|Sweep|cppgc|Marking|TracedHandles|IsUnmodifiedApi|heap::base/;
// Code without a name has been compiled by V8: the module, its JavaScript, a Worker's own.
const COMPILED = /^0x/;

const control = (pid, ...args) => execFileSync("callgrind_control", [...args, String(pid)], { stdio: "ignore" });

/** The file that valgrind writes, when it is whole: it ends with the sum. */
async function dumped(folder) {
  for (let attempt = 0; attempt < 600; attempt += 1) {
    for (const name of await readdir(folder)) {
      const file = path.join(folder, name);
      if (/^totals: /m.test(await readFile(file, "latin1"))) return file;
    }
    await setTimeout(50);
  }
  throw new Error("valgrind wrote no counts");
}

/** Instructions by function. */
function counts(file) {
  const listed = execFileSync("callgrind_annotate", ["--threshold=100", file], { encoding: "latin1", maxBuffer: 1 << 28 });
  const rows = listed.split("\n").map((line) => /^ *([\d,]+) \([^)]*\) +\S*?:(.*?)(?: \[[^\]]*\])?$/.exec(line)).filter(Boolean);
  return rows.map(([, count, name]) => ({ name, count: Number(count.replaceAll(",", "")) }));
}

async function countOf(run, name) {
  const folder = await mkdtemp(path.join(run.folder, "count-"));
  const options = ["--tool=callgrind", "--quiet", "--instr-atstart=no", "--smc-check=all-non-file"];
  run.under = ["valgrind", ...options, `--callgrind-out-file=${folder}/callgrind.%p`];
  const system = { ...(await SYSTEMS[name].start(run, name)), name };
  await load(run, system, WORKLOAD, WARM_UP * settings.seconds);
  control(system.pid, "--instr=on");
  const { requests } = await load(run, system, WORKLOAD, COUNT * settings.seconds);
  control(system.pid, "--instr=off");
  control(system.pid, "--dump");
  const rows = counts(await dumped(folder));
  await stop(system.child);
  const sum = (wanted) => rows.filter(({ name }) => wanted(name)).reduce((total, { count }) => total + count, 0) / requests;
  const isRare = (name) => COMPILES.test(name) || COLLECTS.test(name);
  return { name, requests, all: sum((name) => !isRare(name)), compiled: sum((name) => COMPILED.test(name)), rare: sum(isRare) };
}

/** Without valgrind there is nothing to count with. */
function check() {
  try {
    execFileSync("valgrind", ["--version"], { stdio: "ignore" });
  } catch {
    throw new Error("this needs valgrind, which is not installed");
  }
}

await inRun(async (run) => {
  check();
  const names = COUNTED.filter((name) => SYSTEMS[name] && settings.systems.test(name));
  if (names.length === 0) throw new Error(`BENCH_SYSTEMS leaves none of ${COUNTED.join(", ")}`);
  run.upstream = await startUpstream();
  const counted = [];
  for (const name of names) counted.push(await countOf(run, name));
  const titles = ["system", "requests", "instructions a request", `of ${names[0]}`, "compiled by V8", "V8's compilers and collections, besides"];
  const rows = counted.map(({ name, requests, all, compiled, rare }) => [name, whole(requests), whole(all), digits(2)(all / counted[0].all), whole(compiled), whole(rare)]);
  console.log(table([titles, ...rows]));
});
