// The two plots, as SVG: how far each target is met, and every system beside the pass-through.
import { over, pairs } from "./stats.mjs";

const WIDTH = 960;
const ROW = 24;
const COLOURS = { text: "#1f2937", faint: "#6b7280", grid: "#e5e7eb", ours: "#2563eb", theirs: "#9ca3af", met: "#15803d", missed: "#b91c1c" };

const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const place = (value) => value.toFixed(1);

const text = (x, y, content, { anchor = "start", colour = COLOURS.text, size = 13, weight = 400 } = {}) =>
  `<text x="${place(x)}" y="${place(y)}" text-anchor="${anchor}" font-size="${size}" font-weight="${weight}" fill="${colour}">${escape(content)}</text>`;
const line = (x1, y1, x2, y2, colour, width = 1) =>
  `<line x1="${place(x1)}" y1="${place(y1)}" x2="${place(x2)}" y2="${place(y2)}" stroke="${colour}" stroke-width="${width}"/>`;

/** A bar from `zero` to the median, with a whisker from the lowest to the highest. */
function bar(y, zero, value, colour, scale) {
  const [from, to] = [scale(zero), scale(value.median)].sort((a, b) => a - b);
  const [low, high] = [scale(value.low), scale(value.high)];
  const middle = y + ROW / 2;
  return [
    `<rect x="${place(from)}" y="${place(y + 5)}" width="${place(Math.max(to - from, 1))}" height="${ROW - 10}" rx="2" fill="${colour}" fill-opacity="0.75"/>`,
    line(low, middle, high, middle, COLOURS.text),
    line(low, middle - 4, low, middle + 4, COLOURS.text),
    line(high, middle - 4, high, middle + 4, COLOURS.text),
  ].join("\n");
}

function svg(height, title, parts) {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" role="img">
<title>${escape(title)}</title>
<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>
${parts.flat().join("\n")}
</svg>
`;
}

const brief = (value) => value.toFixed(Math.abs(value) < 100 ? 2 : 0);

// What a tick says: no more digits than it needs.
const tick = (value) => String(Number(value.toPrecision(3)));

/** Vertical lines with their values above. */
const grid = (ticks, scale, top, bottom, say) =>
  ticks.flatMap((value) => [
    line(scale(value), top, scale(value), bottom, COLOURS.grid),
    text(scale(value), top - 6, say(value), { anchor: "middle", colour: COLOURS.faint, size: 11 }),
  ]);

// Where things begin in the plot of targets: bars after what they say, and after them what was measured and what is due.
const TARGET = { bars: 440, width: 330, measured: 784, due: 868 };
const [LEAST, MOST] = [1 / 16, 4];

/** Each bar is how often the target is reached: 1 is the target, whichever side is the good one. */
export function targetsPlot(targets) {
  const rows = targets.filter(({ value }) => value && value.median > 0);
  const top = 68;
  const bottom = top + rows.length * ROW;
  const reached = ({ limit, isAtLeast }) => (isAtLeast ? (value) => value / limit : (value) => limit / Math.max(value, limit / MOST));
  const scale = (value) => {
    const bounded = Math.min(Math.max(value, LEAST), MOST);
    return TARGET.bars + (TARGET.width * Math.log(bounded / LEAST)) / Math.log(MOST / LEAST);
  };
  const each = rows.map((row, index) => {
    const y = top + index * ROW;
    const of = reached(row);
    const ends = [of(row.value.low), of(row.value.high)].sort((a, b) => a - b);
    const value = { median: of(row.value.median), low: ends[0], high: ends[1] };
    const colour = row.isMet ? COLOURS.met : COLOURS.missed;
    return [
      text(TARGET.bars - 12, y + 16, row.what, { anchor: "end", size: 12 }),
      bar(y, 1, value, colour, scale),
      text(TARGET.measured, y + 16, `${row.isMet ? "✓" : "✗"} ${brief(row.value.median)}`, { colour, weight: 600 }),
      text(TARGET.due, y + 16, `${row.isAtLeast ? "≥" : "≤"} ${row.limit}`, { colour: COLOURS.faint }),
    ];
  });
  return svg(bottom + 16, "Targets and what was measured", [
    text(16, 26, "Targets", { size: 16, weight: 600 }),
    text(TARGET.bars, 26, "how often the target is reached; 1 is the target", { size: 12, colour: COLOURS.faint }),
    text(TARGET.measured, 26, "measured", { size: 12, colour: COLOURS.faint }),
    text(TARGET.due, 26, "target", { size: 12, colour: COLOURS.faint }),
    grid([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4], scale, top, bottom, (value) => (value < 1 ? `1/${1 / value}` : tick(value))),
    ...each,
    line(scale(1), top, scale(1), bottom, COLOURS.text, 2),
  ]);
}

const field = (name) => (result) => result[name];
const PANELS = [
  ["not-streamed-16", "Not streamed, 16 connections", "requests/s, of pass-through", field("perSecond"), "pass-through"],
  ["ttft", "First token, 1 connection", "median, of pass-through; less is better", field("first_p50_ms"), "pass-through"],
  ["burst-one", "Streams of 200 events, 1 a write", "streams/s, of pass-through", field("perSecond"), "pass-through"],
  ["burst-many", "Streams of 200 events, 16 a write", "streams/s, of pass-through", field("perSecond"), "pass-through"],
  ["paced-150", "150 streams at a human pace", "CPU an event, of pull-identity; less is better", field("steadyCpuMicrosAnEvent"), "pull-identity"],
  ["gathering", "32 streams, an event every 5 ms", "CPU an event, of no gathering; less is better", field("steadyCpuMicrosAnEvent"), "gateway"],
  ["paced-32", "32 streams at a human pace", "median lag, of pass-through; less is better", field("lag_p50_ms"), "pass-through"],
];
const COLUMN = WIDTH / 2;
// Inside a column: the bars, after the names of the systems and before their values.
const BARS = { at: 142, width: 260 };

/** The bars of a panel: each system's figure as a share of another system's. The straight line is off any scale. */
function rowsOf(results, figure, base) {
  const names = Object.keys(results).filter((name) => name !== "straight");
  const rows = names.map((name) => ({ name, value: pairs(results[name].map(figure), results[base].map(figure), over) }));
  return rows.filter(({ value }) => Number.isFinite(value.median));
}

function panel(x, y, { title, subtitle, rows }) {
  const most = Math.max(1, ...rows.map(({ value }) => value.median)) * 1.15;
  const scale = (value) => x + BARS.at + (BARS.width * Math.min(value, most)) / most;
  const top = y + 58;
  const bottom = top + rows.length * ROW;
  const step = [0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100].find((step) => most / step <= 6) ?? most;
  const ticks = Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step);
  return [
    text(x + BARS.at, y + 14, title, { weight: 600 }),
    text(x + BARS.at, y + 30, subtitle, { size: 12, colour: COLOURS.faint }),
    grid(ticks, scale, top, bottom, tick),
    ...rows.map(({ name, value }, index) => {
      const at = top + index * ROW;
      const isOurs = name.startsWith("gateway");
      return [
        text(x + BARS.at - 10, at + 16, name, { anchor: "end", size: 12, weight: isOurs ? 600 : 400 }),
        bar(at, 0, value, isOurs ? COLOURS.ours : COLOURS.theirs, scale),
        text(x + BARS.at + BARS.width + 12, at + 16, brief(value.median), { size: 12 }),
      ];
    }),
    line(scale(1), top, scale(1), bottom, COLOURS.text, 1.5),
  ].flat(2);
}

/** A panel a workload, two in a line. */
export function systemsPlot(workloads) {
  const panels = PANELS.filter(([workload, , , , base]) => workloads[workload]?.[base])
    .map(([workload, title, subtitle, figure, base]) => ({ title, subtitle, rows: rowsOf(workloads[workload], figure, base) }))
    .filter(({ rows }) => rows.length > 0);
  const parts = [text(16, 26, "Systems", { size: 16, weight: 600 })];
  let y = 44;
  for (let index = 0; index < panels.length; index += 2) {
    const pair = panels.slice(index, index + 2);
    pair.forEach((one, column) => parts.push(panel(column * COLUMN, y, one)));
    y += 58 + Math.max(...pair.map(({ rows }) => rows.length)) * ROW + 22;
  }
  return svg(y, "Systems beside each other", parts);
}
