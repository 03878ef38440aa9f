// Waiting for a condition. A limit only turns "never" into a failure that names what did not happen.
const LIMIT_MS = 10_000;

export async function within(promise, what, limitMs = LIMIT_MS) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${limitMs} ms in vain: ${what}`)), limitMs);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/** A promise and the function that settles it: how a test tells a scripted upstream to go on. */
export function latch() {
  const { promise, resolve } = Promise.withResolvers();
  return { opened: promise, open: resolve };
}

/** The first answer of `look` that is not undefined. For what only shows when one looks: each look is a request. */
export async function eventually(what, look, limitMs = LIMIT_MS) {
  const until = Date.now() + limitMs;
  for (;;) {
    const seen = await look();
    if (seen !== undefined) return seen;
    if (Date.now() > until) throw new Error(`waited ${limitMs} ms in vain: ${what}`);
    await atTime(Date.now() + 20);
  }
}

/** Waits until the clock says so. A timer may ring a little early; this never does. */
export async function atTime(ms) {
  while (Date.now() < ms) await new Promise((resolve) => setTimeout(resolve, ms - Date.now()));
}

/** Waits for a new day, UTC, where this one ends within `ms`: what is counted by the day would begin anew. */
export async function untilTheDayHasTime(ms) {
  const left = 86_400_000 - (Date.now() % 86_400_000);
  if (left < ms) await atTime(Date.now() + left);
}
