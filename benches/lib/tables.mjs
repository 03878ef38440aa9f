// What was measured, as tables: one a workload, a line a system.
import { coldFigures } from "./cold.mjs";
import { minus, over, pairs, spread } from "./stats.mjs";

export const whole = (value) => (Number.isFinite(value) ? Math.round(value).toLocaleString("en-US") : "?");
export const digits = (count) => (value) => (Number.isFinite(value) ? value.toFixed(count) : "?");

/** The median, with the lowest and the highest where there is more than one. */
export const shown = ({ median, low, high }, format) =>
  format(low) === format(high) ? format(median) : `${format(median)} (${format(low)}–${format(high)})`;

export function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const line = (row) => `| ${row.map((cell, column) => cell.padEnd(widths[column])).join(" | ")} |`;
  const rule = `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`;
  return [line(rows[0]), rule, ...rows.slice(1).map(line)].join("\n");
}

const field = (name) => (result) => result[name];

// The system's kB are KiB.
const megabytes = (kb) => ((kb ?? NaN) * 1.024) / 1000;

// A column is a figure of a system's own rounds, or of them beside another system's.
const own = (title, figure, format) => ({ title, format, of: (rounds) => spread(rounds.map(figure)) });
const beside = (title, figure, other, how, format) => ({
  title,
  format,
  of: (rounds, all) => (all[other] && all[other] !== rounds ? pairs(rounds.map(figure), all[other].map(figure), how) : null),
});

const added = (what, name, than) => [
  own(`${what}, p50 ms`, field(`${name}_p50_ms`), digits(2)),
  own("p99 ms", field(`${name}_p99_ms`), digits(1)),
  beside("added, p50 ms", field(`${name}_p50_ms`), than, minus, digits(2)),
  beside("added, p99 ms", field(`${name}_p99_ms`), than, minus, digits(1)),
];
const rate = (what, than) => [
  own(what, field("perSecond"), whole),
  beside(`of ${than}`, field("perSecond"), than, over, digits(2)),
];

/** The columns that a workload's figures deserve. */
function columns({ name, isPaced, stream }) {
  if (name === "ledger") {
    return [...rate("pairs/s", "empty-object"), own("CPU µs a pair", field("cpuMicros"), whole), ...added("a reserve", "whole", "empty-object")];
  }
  if (isPaced) {
    return [
      own("events/s", field("eventsPerSecond"), whole),
      own("CPU µs an event", field("steadyCpuMicrosAnEvent"), digits(1)),
      beside("of pull-identity", field("steadyCpuMicrosAnEvent"), "pull-identity", over, digits(2)),
      ...(name === "gathering" ? [beside("of gateway", field("steadyCpuMicrosAnEvent"), "gateway", over, digits(2))] : []),
      own("CPU ms a stream-second", field("steadyCpuMillisAStreamSecond"), digits(2)),
      own("whole streams: CPU µs an event", field("cpuMicrosAnEvent"), digits(1)),
      own("lag p50 ms", field("lag_p50_ms"), digits(2)),
      own("lag p99 ms", field("lag_p99_ms"), digits(1)),
      beside("lag p50 of pass-through", field("lag_p50_ms"), "pass-through", over, digits(2)),
      own("memory: middle MB", ({ middle_kb }) => megabytes(middle_kb), whole),
      own("end MB", ({ late_kb }) => megabytes(late_kb), whole),
    ];
  }
  if (stream) {
    return [
      ...rate("streams/s", "pass-through"),
      own("events/s", field("eventsPerSecond"), whole),
      own("CPU µs an event", field("cpuMicrosAnEvent"), digits(1)),
      ...added("first token", "first", "straight"),
    ];
  }
  return [...rate("requests/s", "pass-through"), own("CPU µs a request", field("cpuMicros"), whole), ...added("answer", "whole", "straight")];
}

export function workloadTable(workload, results) {
  const all = columns(workload).map(({ title, format, of }) => {
    const cells = workload.systems.map((system) => {
      const value = of(results[system], results);
      return value && !Number.isNaN(value.median) ? shown(value, format) : "";
    });
    return { title, cells };
  });
  // A comparison with a system that was left out is no column.
  const filled = all.filter(({ cells }) => cells.some((cell) => cell !== ""));
  const rows = workload.systems.map((system, index) => [system, ...filled.map(({ cells }) => cells[index])]);
  return `## ${workload.name}\n\n${workload.title}\n\n${table([["system", ...filled.map(({ title }) => title)], ...rows])}`;
}

export function targetTable(targets) {
  const sign = ({ isMet }) => (isMet === null ? "not measured" : isMet ? "✓" : "✗");
  const rows = targets.map((target) => [
    target.what,
    `${target.isAtLeast ? "≥" : "≤"} ${target.limit}`,
    target.value ? shown(target.value, digits(2)) : "",
    sign(target),
    target.bound ? shown(target.bound, digits(2)) : "",
  ]);
  return `## Targets\n\n${table([["figure", "target", "measured", "met", "the least that a Worker can"], ...rows])}`;
}

export function coldTable(starts) {
  const rows = Object.entries(starts).map(([system, some]) => {
    const { listening, first, second } = coldFigures(some);
    return [system, ...[listening, first, second].map((value) => shown(value, digits(1)))];
  });
  return `## cold-start\n\nworkerd started anew: ms until it listens, until its first answer is whole, and the second answer's own\n\n${table([["system", "listening", "first answer", "second answer"], ...rows])}`;
}

export function microTable(rows) {
  const unit = ({ events, bytes, median }) => {
    if (events) return `${whole(median / events)} ns an event`;
    return bytes ? `${digits(2)(bytes / median)} GB/s` : "";
  };
  const cells = rows.map((row) => [row.name, shown({ ...row }, (ns) => digits(2)(ns / 1000)), unit(row)]);
  return `## micro\n\nnative, medians with their 95 % intervals\n\n${table([["part", "µs", "that is"], ...cells])}`;
}
