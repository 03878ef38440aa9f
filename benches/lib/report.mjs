// What was measured, as tables: one a workload, a line a system.
import { minus, over, pairs, spread } from "./stats.mjs";
import { settings } from "./settings.mjs";

const whole = (value) => (Number.isFinite(value) ? Math.round(value).toLocaleString("en-US") : "?");
const digits = (count) => (value) => (Number.isFinite(value) ? value.toFixed(count) : "?");
const shown = ({ median, low, high }, format) => (low === high || Number.isNaN(median) ? format(median) : `${format(median)} (${format(low)}–${format(high)})`);

function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const line = (row) => `| ${row.map((cell, column) => cell.padEnd(widths[column])).join(" | ")} |`;
  const rule = `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`;
  return [line(rows[0]), rule, ...rows.slice(1).map(line)].join("\n");
}

const field = (name) => (result) => result[name];
const own = (title, of, format) => ({ title, format, of: (rounds) => spread(rounds.map(of)) });
const beside = (title, of, other, how, format) => ({
  title,
  format,
  of: (rounds, all) => (all[other] && all[other] !== rounds ? pairs(rounds.map(of), all[other].map(of), how) : null),
});

const perSecond = (what) => [
  own(what, field("perSecond"), whole),
  beside("of pass-through", field("perSecond"), "pass-through", over, digits(2)),
];
const added = (what, name) => [
  own(`${what} p50 ms`, field(`${name}_p50_ms`), digits(2)),
  beside("added p50", field(`${name}_p50_ms`), "straight", minus, digits(2)),
  beside("added p99", field(`${name}_p99_ms`), "straight", minus, digits(2)),
];

/** The columns that a workload's figures deserve. */
function columns({ name, script, stream }) {
  if (name === "ledger") {
    return [
      own("pairs/s", field("perSecond"), whole),
      beside("of empty-object", field("perSecond"), "empty-object", over, digits(2)),
      own("CPU µs a pair", field("cpuMicros"), whole),
      own("p50 ms", field("whole_p50_ms"), digits(2)),
      beside("added p50", field("whole_p50_ms"), "empty-object", minus, digits(2)),
      beside("added p99", field("whole_p99_ms"), "empty-object", minus, digits(2)),
    ];
  }
  if (script === "paced") {
    return [
      own("events/s", field("eventsPerSecond"), whole),
      own("CPU µs an event", field("steadyCpuMicrosAnEvent"), digits(1)),
      own("whole streams", field("cpuMicrosAnEvent"), digits(1)),
      own("lag p50 ms", field("lag_p50_ms"), digits(2)),
      own("lag p99 ms", field("lag_p99_ms"), digits(1)),
      beside("lag p50 of pass-through", field("lag_p50_ms"), "pass-through", over, digits(2)),
      own("memory MB", ({ late_kb }) => (late_kb ?? NaN) / 1000, whole),
    ];
  }
  if (stream) {
    return [
      ...perSecond("streams/s"),
      own("events/s", field("eventsPerSecond"), whole),
      own("CPU µs an event", field("cpuMicrosAnEvent"), digits(1)),
      ...added("first token", "first"),
    ];
  }
  return [...perSecond("requests/s"), own("CPU µs a request", field("cpuMicros"), whole), ...added("answer", "whole")];
}

function workloadTable(workload, results) {
  const all = columns(workload);
  const rows = workload.systems.map((system) => [
    system,
    ...all.map(({ of, format }) => {
      const value = of(results[system], results);
      return value ? shown(value, format) : "";
    }),
  ]);
  return `### ${workload.name}: ${workload.title}\n\n${table([["system", ...all.map(({ title }) => title)], ...rows])}`;
}

export async function write(run, workloads, results) {
  const tables = workloads.map((workload) => workloadTable(workload, results[workload.name]));
  console.log(`\n${tables.join("\n\n")}\n`);
  console.log(`Medians of ${settings.rounds} rounds taken in turns (lowest–highest); ${run.busy.toFixed(1)} of the cores at work for others before the run.`);
}
