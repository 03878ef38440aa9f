// Rounds and what becomes of them: the median, and how far they lie apart.

export function spread(values) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (sorted.length === 0) return { median: NaN, low: NaN, high: NaN };
  const middle = Math.floor(sorted.length / 2);
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, low: sorted[0], high: sorted.at(-1) };
}

/** One figure against another, round by round: what slows the machine for a while slows both sides of a pair. */
export const pairs = (ones, others, of) => spread(ones.slice(0, others.length).map((one, round) => of(one, others[round])));

export const over = (one, other) => one / other;
export const minus = (one, other) => one - other;
