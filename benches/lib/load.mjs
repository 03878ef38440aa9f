// One system under one workload: asked once to read what it says, or loaded.
import { firstLine, start } from "./processes.mjs";
import { LOAD } from "./systems.mjs";
import { bodyOf } from "./workloads.mjs";

/** What a system says, as text: the load generator counts events, this reads them. */
export async function ask(run, system, workload) {
  const answer = await fetch(`http://127.0.0.1:${system.port}${system.path(workload)}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${run.key}`, ...system.headers?.(workload) },
    body: bodyOf(workload),
    signal: AbortSignal.timeout(10_000),
  });
  const body = await answer.text();
  if (answer.status !== 200) throw new Error(`${system.name} answered ${answer.status}: ${body}`);
  if (!workload.stream) return JSON.parse(body).choices[0].text;
  const events = body.split("\n\n").filter((event) => event.startsWith("data: {"));
  return events.map((event) => JSON.parse(event.slice(6)).choices[0].text).join("");
}

/** The load generator's result, and what follows from it. One wrong answer is an error. */
export async function load(run, system, workload, seconds) {
  const headers = Object.entries(system.headers?.(workload) ?? {}).map((header) => header.join(": "));
  const args = {
    port: system.port,
    path: system.path(workload),
    body: bodyOf(workload),
    bearer: run.key,
    connections: workload.connections,
    seconds: workload.seconds ?? seconds,
    ramp: workload.ramp,
    events: workload.events,
    says: workload.says,
    pid: system.pid,
    headers: headers.join("\n"),
  };
  const given = Object.entries(args).filter(([, value]) => value !== undefined && value !== "");
  const child = start(LOAD, given.flatMap(([name, value]) => [`--${name}`, String(value)]), { stdio: ["ignore", "pipe", "inherit"] });
  const result = JSON.parse(await firstLine(child, child.stdout));
  if (result.errors > 0 || (await child.gone) !== 0) {
    throw new Error(`wrong answers from ${system.name} at ${workload.name}: ${JSON.stringify(result)}`);
  }
  return {
    ...result,
    perSecond: result.requests / result.seconds,
    eventsPerSecond: result.events / result.seconds,
    cpuMicros: perUnit(result.cpu_s, result.requests),
    cpuMicrosAnEvent: perUnit(result.cpu_s, result.events),
    steadyCpuMicrosAnEvent: perUnit(result.steady_cpu_s, result.steady_events),
    steadyCpuMillisAStreamSecond: perUnit(result.steady_cpu_s, result.steady_s * workload.connections) / 1000,
  };
}

// NaN where the system does not tell, or where there was none.
const perUnit = (seconds, units) => (seconds === null || units === 0 ? NaN : (seconds * 1e6) / units);
