// Measures our Worker against what else could stand in its place, in turns, in one run on one machine. A wrong answer
// anywhere voids the run. benches/README.md says how to read the figures.
import { ask, load } from "./lib/load.mjs";
import { coldStarts } from "./lib/cold.mjs";
import { watchOthers } from "./lib/machine.mjs";
import { micro } from "./lib/micro.mjs";
import { stopAll } from "./lib/processes.mjs";
import { buildSize, write } from "./lib/report.mjs";
import { inRun } from "./lib/run.mjs";
import { settings } from "./lib/settings.mjs";
import { SYSTEMS, startUpstream } from "./lib/systems.mjs";
import { WORKLOADS } from "./lib/workloads.mjs";

const began = Date.now();
const say = (text) => console.error(`bench: ${text}, ${Math.round((Date.now() - began) / 1000)} s`);

/** What is measured: each workload with its systems, as far as they are wanted and exist. */
function wanted() {
  const systems = (names) => names.filter((name) => SYSTEMS[name] && settings.systems.test(name));
  return WORKLOADS.filter(({ name }) => settings.only.test(name))
    .map((workload) => ({ ...workload, systems: systems(workload.systems) }))
    .filter((workload) => workload.systems.length > 0);
}

/** Starts what the workloads want. What cannot be installed is named and left out. */
async function startSystems(run, workloads) {
  const started = new Map();
  for (const name of new Set(workloads.flatMap(({ systems }) => systems))) {
    try {
      started.set(name, { ...(await SYSTEMS[name].start(run, name)), name });
    } catch (error) {
      if (!error.cannotInstall) throw error;
      console.error(`bench: SKIPPED: ${name}: ${error.message}`);
    }
  }
  for (const workload of workloads) workload.systems = workload.systems.filter((name) => started.has(name));
  return started;
}

/** For how many times as long as a measurement each warms up: V8 compiles what is called some thousands of times once more. */
const WARM_UP = 2;

/** What systems do before they are measured: all that is not paced, and a burst where nothing else would warm them up. */
function rehearsals(workloads) {
  const quick = workloads.filter(({ isPaced }) => !isPaced);
  const others = new Set(workloads.flatMap(({ systems }) => systems)).difference(new Set(quick.flatMap(({ systems }) => systems)));
  return [...quick, { ...WORKLOADS.find(({ name }) => name === "burst-one"), systems: [...others] }];
}

/** Every system must say the same. */
async function compareAnswers(run, rehearsals, systems) {
  for (const workload of rehearsals.filter(({ script, says }) => script !== "short" && !says)) {
    for (const name of workload.systems) {
      const text = await ask(run, systems.get(name), workload);
      const words = text.split(" ");
      if (words.length !== 201 || words.some((word, index) => index > 0 && word !== `word${index - 1}`)) {
        throw new Error(`${name} does not say what the upstream says at ${workload.name}: ${text}`);
      }
    }
  }
}

/** Results by workload and system, an array of rounds each. */
async function measure(run, workloads, systems) {
  const results = Object.fromEntries(workloads.map(({ name, systems }) => [name, Object.fromEntries(systems.map((system) => [system, []]))]));
  for (let round = 1; round <= settings.rounds; round += 1) {
    // What is measured less often is measured last, when all is warm.
    for (const workload of workloads.filter(({ rounds = settings.rounds }) => round > settings.rounds - rounds)) {
      for (const name of workload.systems) {
        // The straight line is context, and needs less time.
        const seconds = name === "straight" ? settings.seconds / 2 : settings.seconds;
        results[workload.name][name].push(await load(run, systems.get(name), workload, seconds));
      }
    }
    say(`round ${round} of ${settings.rounds} done`);
  }
  return results;
}

async function main(run) {
  const workloads = wanted();
  const others = await watchOthers();
  run.upstream = await startUpstream();

  const systems = await startSystems(run, workloads);
  const before = rehearsals(workloads);
  await compareAnswers(run, before, systems);
  for (const workload of before) {
    for (const name of workload.systems) await load(run, systems.get(name), workload, WARM_UP * settings.seconds);
  }
  say("answers are right, everything is warm");
  const found = { taken: new Date().toISOString().slice(0, 10), build: await buildSize() };
  found.workloads = await measure(run, workloads, systems);
  if (settings.only.test("cold-start")) {
    found.cold = await coldStarts(run, (name) => settings.systems.test(name));
    say("cold starts done");
  }
  await stopAll();
  found.busy = await others();
  if (settings.only.test("micro")) {
    found.micro = await micro();
    say("micro-benchmarks done");
  }
  found.seconds = (Date.now() - began) / 1000;
  console.log(`\n${await write(found, workloads)}`);
}

await inRun(main);
