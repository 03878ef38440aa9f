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
