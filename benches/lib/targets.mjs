// What our Worker is meant to reach, as figures of one run. Whether it does is for the reader to see: it fails no run.
import { minus, over, pairs, spread } from "./stats.mjs";

const field = (name) => (result) => result[name];
const perSecond = field("perSecond");

// `of` gets the results by workload, and what was found out of the build; nothing where the figure was not taken.
function compared(workload, figure, one, other, how) {
  return ({ workloads }) => {
    const { [one]: ones, [other]: others } = workloads[workload] ?? {};
    return ones && others ? pairs(ones.map(figure), others.map(figure), how) : null;
  };
}

// `bound` is a system that does less than anything that keeps our promises.
const atLeast = (limit, workload, what, figure, one, other, bound) => ({
  what: `${what}: ${one} / ${other}`,
  limit,
  isAtLeast: true,
  of: compared(workload, figure, one, other, over),
  boundOf: bound && compared(workload, figure, bound, other, over),
});
const atMost = (...args) => ({ ...atLeast(...args), isAtLeast: false });

export const TARGETS = [
  atMost(1.1, "paced-150", "human pace, CPU an event", field("steadyCpuMicrosAnEvent"), "gateway", "pull-identity"),
  atMost(1.3, "paced-32", "human pace, 32 streams, median lag", field("lag_p50_ms"), "gateway", "pass-through", "pull-identity"),
  {
    what: "500 open streams: memory at the end / in the middle",
    limit: 1.1,
    isAtLeast: false,
    of: ({ workloads }) => {
      const rounds = workloads["paced-500"]?.gateway;
      return rounds ? spread(rounds.map(({ late_kb, middle_kb }) => late_kb / middle_kb)) : null;
    },
  },
  atLeast(0.6, "burst-one", "burst, 1 event a write, streams/s", perSecond, "gateway", "pass-through", "js-least"),
  atLeast(4, "burst-one", "burst, 1 event a write, streams/s", perSecond, "gateway", "js-rewriter", "js-least"),
  atLeast(1.4, "burst-one", "burst, 1 event a write, streams/s", perSecond, "gateway", "portkey", "js-least"),
  atLeast(0.7, "burst-many", "burst, 16 events a write, streams/s", perSecond, "gateway", "pass-through", "js-least"),
  atLeast(3, "burst-many", "burst, 16 events a write, streams/s", perSecond, "gateway", "js-rewriter", "js-least"),
  atLeast(0.7, "not-streamed-16", "not streamed, requests/s", perSecond, "gateway-quota-off", "pass-through", "js-least"),
  atLeast(3, "not-streamed-16", "not streamed, requests/s", perSecond, "gateway-quota-off", "portkey", "js-least"),
  atLeast(0.2, "not-streamed-16", "not streamed, requests/s", perSecond, "gateway-no-slices", "pass-through", "js-least-ledger"),
  atLeast(0.5, "not-streamed-16", "not streamed, requests/s", perSecond, "gateway", "pass-through", "js-least"),
  {
    what: "first token at 1 connection, median ms: gateway − pass-through",
    limit: 1,
    isAtLeast: false,
    of: compared("ttft", field("first_p50_ms"), "gateway", "pass-through", minus),
  },
  {
    what: "index_bg.wasm gzipped, kB",
    limit: 400,
    isAtLeast: false,
    of: ({ build }) => spread([build.gzipped / 1000]),
  },
];

/** Every target with what was measured of it: nothing where it was not, else whether it is met. */
export function judge(found) {
  return TARGETS.map(({ of, boundOf, ...target }) => {
    const value = of(found);
    if (!value || Number.isNaN(value.median)) return { ...target, value: null, isMet: null };
    const bound = boundOf?.(found) ?? null;
    return { ...target, value, bound, isMet: target.isAtLeast ? value.median >= target.limit : value.median <= target.limit };
  });
}
