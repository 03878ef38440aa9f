// A cold start: workerd is started anew, and asked at once.
import { ask } from "./load.mjs";
import { stop } from "./processes.mjs";
import { spread } from "./stats.mjs";
import { SYSTEMS } from "./systems.mjs";

const STARTS = 7;
const KINDS = ["pass-through", "gateway"];
const QUESTION = { name: "cold-start", script: "one" };

/** By system, for each start: milliseconds until it listened, and until its first and its second answer were whole. */
export async function coldStarts(run, wants) {
  const names = KINDS.filter(wants);
  const starts = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = 0; round <= STARTS; round += 1) {
    for (const name of names) {
      const took = await coldStart(run, name, round);
      // The first of all reads the programs from disk, or not: whatever was done before decides.
      if (round > 0) starts[name].push(took);
    }
  }
  return starts;
}

async function coldStart(run, name, round) {
  const system = { ...(await SYSTEMS[name].start(run, `${name} cold ${round}`)), name };
  const since = () => performance.now() - system.spawned;
  const listening = since();
  await ask(run, system, QUESTION);
  const first = since();
  await ask(run, system, QUESTION);
  const second = since() - first;
  await stop(system.child);
  return { listening, first, second };
}

export const coldFigures = (starts) => ({
  listening: spread(starts.map(({ listening }) => listening)),
  first: spread(starts.map(({ first }) => first)),
  second: spread(starts.map(({ second }) => second)),
});
