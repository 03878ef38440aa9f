// What is asked for, and what the upstream makes of it: every request has a plan, drawn from a seeded generator, and
// the plan is found again by the `user` that goes upstream with each call.
import { completion, chatChunk, chatCompletion, events, textChunk } from "../e2e/harness/scripts.mjs";

/** Numbers from 0 to 1 that are the same for the same seed: Mulberry32. */
export function generator(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
  const below = (bound) => Math.floor(next() * bound);
  return { next, below, pick: (list) => list[below(list.length)], chance: (share) => next() < share };
}

export const tokensOf = (bytes) => Math.ceil(bytes / 4);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// How targets misbehave. `text` says that text has gone out before, where a stream was asked for.
const FAULTS = {
  silence: (exchange) => exchange.closed,
  "headers alone": async (exchange, say) => {
    await say.head();
    await exchange.closed;
  },
  "comments alone": async (exchange, say) => {
    await say.head();
    while (!exchange.isClosed()) {
      await exchange.chunk(say.streams ? ": ping\n\n" : "\n");
      await sleep(20);
    }
  },
  "a flood of comments": async (exchange, say) => {
    await say.head();
    const flood = (say.streams ? ": ping\n\n" : "        ").repeat(500);
    while (!exchange.isClosed()) {
      await exchange.chunk(flood);
      await sleep(1);
    }
  },
  "a stall amid an event": async (exchange, say) => {
    await say.half();
    await exchange.closed;
  },
  "a reset before the headers": (exchange) => exchange.reset(),
  "a reset after the headers": async (exchange, say) => {
    await say.head();
    exchange.reset();
  },
  "a reset amid an event": async (exchange, say) => {
    await say.half();
    exchange.reset();
  },
  "an end amid an event": async (exchange, say) => {
    await say.half();
    await exchange.close();
  },
  "an endless line": async (exchange, say) => {
    await say.half();
    while (!exchange.isClosed()) await exchange.chunk("x".repeat(4096));
  },
  "500": (exchange, say) => say.status(500),
  "503": (exchange, say) => say.status(503),
  "529": (exchange, say) => say.status(529),
  "400": (exchange, say) => say.status(400),
};

export const FAULT_NAMES = Object.keys(FAULTS);

/** What one call says, in the words of its dialect. `source` is the part of the plan that it answers. */
function speaker(exchange, source, streams) {
  const chat = exchange.request.json.messages !== undefined;
  const chunk = (text, finish = null) => (chat ? chatChunk({ content: text }, finish) : textChunk(text, finish));
  const say = {
    streams,
    head: () => exchange.head(200, { "Content-Type": streams ? "text/event-stream" : "application/json", "Transfer-Encoding": "chunked" }),
    async half() {
      await say.head();
      await exchange.chunk(streams ? events(...source.texts.slice(0, 2).map((text) => chunk(text))) : "");
      await exchange.chunk(streams ? 'data: {"choices":[{"index":0,"te' : '{"id":"cmpl-upstream","choices":[{"te');
    },
    async status(status) {
      const body = JSON.stringify({ error: { message: "not now" } });
      await exchange.head(status, { "Content-Type": "application/json", "Content-Length": body.length });
      await exchange.send(body);
    },
    async well() {
      const { texts, usage, paces } = source;
      if (!streams) {
        await sleep(paces[0]);
        const whole = chat ? chatCompletion(texts.join(""), { usage }) : completion(texts.join(""), { usage });
        const body = Buffer.from(JSON.stringify(whole));
        await exchange.head(200, { "Content-Type": "application/json", "Content-Length": body.length });
        return exchange.send(body);
      }
      await say.head();
      for (const [nth, text] of texts.entries()) {
        if (exchange.isClosed()) return;
        await exchange.chunk(events(chunk(text)));
        await sleep(paces[nth]);
      }
      await exchange.chunk(events(chunk("", "stop"), ...(usage ? [{ choices: [], usage }] : []), "[DONE]"));
      await exchange.lastChunk();
    },
  };
  // Chunks of no bytes end a body.
  const { chunk: send } = exchange;
  exchange.chunk = (bytes) => (bytes.length === 0 ? Promise.resolve() : send(bytes));
  return say;
}

/** The scripts of the targets. `plans`: user → plan. */
export function scriptsOf(plans) {
  const play = (how) => async (exchange) => {
    const { json } = exchange.request;
    const plan = plans.get(json.user);
    const prompt = json.prompt ?? json.messages[0].content;
    // A call may be on its way still when its client has long gone, and its plan with it.
    if (!plan) return exchange.reset();
    const source = plan.sources.find((source) => source.prompt === prompt);
    const say = speaker(exchange, source, json.stream === true);
    source.calls += 1;
    await how({ exchange, say, plan, source });
  };
  const well = ({ say }) => say.well();
  /** The source's faults, one a call, and well when they are used up. */
  const faulty = ({ exchange, say, source }) => {
    const fault = source.faults.shift();
    return fault ? FAULTS[fault](exchange, say) : say.well();
  };
  return {
    well: play(well),
    faulty: play(faulty),
    "well in parts": play(well),
    "faulty in parts": play(faulty),
    // It is ill for a second and well for two, so that its breaker opens, probes and closes.
    ill: play(({ say }) => (Math.floor(Date.now() / 1000) % 3 === 0 ? say.status(500) : say.well())),
    limited: play(async ({ exchange, say }) => {
      if (Math.floor(Date.now() / 1000) % 4 !== 0) return say.well();
      await exchange.head(429, { "Content-Type": "application/json", "Content-Length": 2, "Retry-After": "1" });
      await exchange.send("{}");
    }),
  };
}

const KINDS = [
  ...Array(6).fill({ model: "well" }),
  ...Array(4).fill({ model: "faulty", faults: 1 }),
  ...Array(3).fill({ model: "faulty", faults: 3 }),
  ...Array(4).fill({ model: "faulty, then well", faults: 1 }),
  ...Array(2).fill({ model: "well in parts", parts: 3 }),
  ...Array(2).fill({ model: "faulty in parts", parts: 3, faults: 1 }),
  ...Array(2).fill({ model: "ill, then well" }),
  { model: "ill" },
  { model: "limited, then well" },
  { model: "limited" },
];

const LEAVES = ["at once", "soon", "after the first text", "without reading"];

/** The plan of one request. */
export function drawPlan(random, id) {
  const { model, faults = 0, parts = 1 } = random.pick(KINDS);
  const streams = random.chance(0.65);
  const unlucky = random.below(parts);
  const sources = Array.from({ length: parts }, (_, nth) => {
    const texts = Array.from({ length: 1 + random.below(8) }, () => "x".repeat(1 + random.below(60)));
    const counted = { prompt_tokens: 1 + random.below(50), completion_tokens: 1 + random.below(300) };
    const usage = random.chance(0.7) ? { ...counted, total_tokens: counted.prompt_tokens + counted.completion_tokens } : null;
    return {
      prompt: `${nth}${"p".repeat(random.below(200))}`,
      texts,
      usage,
      paces: texts.map(() => random.below(6)),
      faults: nth === unlucky ? Array.from({ length: faults }, () => random.pick(FAULT_NAMES)) : [],
      calls: 0,
    };
  });
  const leaves = random.chance(0.2) ? random.pick(LEAVES) : undefined;
  return { id, model, streams, sources, leaves, fin: random.chance(0.3), after: random.below(250), rests: random.chance(0.1) };
}
