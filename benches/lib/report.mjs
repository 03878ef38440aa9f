// The run as it is kept: tables to read, every round as JSON, and two plots.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { machine } from "./machine.mjs";
import { systemsPlot, targetsPlot } from "./plot.mjs";
import { given, isWhole, settings } from "./settings.mjs";
import { coldTable, digits, microTable, targetTable, whole, workloadTable } from "./tables.mjs";
import { judge } from "./targets.mjs";

const BENCHES = path.dirname(import.meta.dirname);
const RESULTS = path.join(BENCHES, "results");

export async function buildSize() {
  const bytes = await readFile(path.join(BENCHES, "../build/index_bg.wasm"));
  return { raw: bytes.length, gzipped: gzipSync(bytes).length };
}

/** Writes what was found, and answers the text. A run of a part goes beside the last whole one and not in its place. */
export async function write(found, workloads) {
  const targets = judge(found);
  const about = machine();
  const name = isWhole ? "latest" : "partial";
  const parts = [
    head(found, about, name),
    // In a part of a run, most targets are of what it left out.
    targetTable(isWhole ? targets : targets.filter(({ value }) => value)),
    ...workloads.map((workload) => workloadTable(workload, found.workloads[workload.name])),
    found.cold && coldTable(found.cold),
    found.micro && microTable(found.micro),
  ];
  const text = `${parts.filter(Boolean).join("\n\n")}\n`;
  const json = { command: command(), settings: { seconds: settings.seconds, rounds: settings.rounds }, machine: about, ...found, targets };
  await mkdir(RESULTS, { recursive: true });
  const files = {
    [`${name}.md`]: text,
    [`${name}.json`]: `${JSON.stringify(json)}\n`,
    [`${name}-targets.svg`]: targetsPlot(targets),
    [`${name}-systems.svg`]: systemsPlot(found.workloads),
  };
  for (const [file, content] of Object.entries(files)) await writeFile(path.join(RESULTS, file), content);
  return text;
}

const command = () => [...given, "make bench"].join(" ");

function head({ busy, build, seconds, taken }, about, name) {
  return `# make bench

\`${command()}\`, ${taken}, ${whole(seconds / 60)} minutes

${about.cores} cores of ${about.cpu}, ${about.memory_gb} GB, ${about.system}; workerd ${about.workerd}, node ${about.node}, rustc ${about.rustc}
completions-edge ${about.commit}, index_bg.wasm ${whole(build.raw / 1000)} kB, ${whole(build.gzipped / 1000)} kB gzipped

Medians of ${settings.rounds} rounds of ${settings.seconds} s taken in turns (lowest–highest); a ratio is the median of the rounds' own pairs.
No wrong answer. ${digits(2)(busy)} of the cores were at work for others${busy > 0.1 ? ": trust the figures less than usual" : ""}.

![targets](${name}-targets.svg)
![systems](${name}-systems.svg)`;
}
