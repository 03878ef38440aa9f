// Minutes of traffic in which everything goes wrong that can: good streams and whole answers, every fault, clients that go
// at random moments or read slowly, prompts that become several calls, targets that are ill or limited for a while. At
// the end the books are compared.
//
// - Every request ended in exactly one of: complete, an error (plain or as the stream's last event), the client gone. It
//   has at most one line in the log, and exactly one if its client stayed.
// - The log's tokens of each request are what the scripted upstream says they should be: what the upstream counted where
//   the answer is complete, and where nobody counted, the rule of thumb (bytes / 4). Nothing, if there was no answer.
//   What a stream that broke off had sent on, and its prompt. Where it is a race, these are bounds: how far a request was
//   when its client went, and which of several calls had been counted when another one failed.
// - The ledger's sums are the sums of the log, to the token.
// - No call is under way at the upstream, no place is taken in the ledger.
// - The Worker's isolate holds what it held when it had warmed up, object for object, and workerd has not grown. Garbage is
//   no growth: every few seconds all isolates have to collect theirs. Most of it is none of the Worker's. Every call to an
//   upstream passes through a Worker of miniflare's, which collects its own once it has tens of megabytes.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { completionCall, startGateway } from "../e2e/harness/gateway.mjs";
import { startCall } from "../e2e/harness/http_client.mjs";
import { heldLittleMore } from "../e2e/harness/inspector.mjs";
import { residentBytes } from "../e2e/harness/processes.mjs";
import { pieces, events, textChunk } from "../e2e/harness/scripts.mjs";
import { choicesOf, parseStream } from "../e2e/harness/sse.mjs";
import { eventually, untilTheDayHasTime, within } from "../e2e/harness/wait.mjs";
import { drawPlan, generator, scriptsOf, tokensOf } from "./traffic.mjs";

const SECONDS = Number(process.env.SOAK_SECONDS ?? 600);
const SEED = Number(process.env.SOAK_SEED ?? randomBytes(4).readUInt32LE());
const CLIENTS = Number(process.env.SOAK_CLIENTS ?? 24);
const MEGABYTE = 1 << 20;
// So many seconds in, the runtime has what it keeps: what comes then is compared with what has come by the end.
const WARM_SECONDS = 25;
const COLLECT_SECONDS = 5;
// What the process may hold more at the end, however long it ran: as much as it goes up and down by in any half minute.
const GROWTH_MEGABYTES = 16;
// Of any kind of object, and in bytes of buffers, the isolate's linear memory among them. The first is next to nothing for
// thousands of requests, of which two dozen are under way when it has warmed up, and none at the end.
const MORE_OBJECTS = 100;
const MORE_BUFFER_BYTES = 2 * MEGABYTE;
const CLOSING_MS = 15_000;

const HASTY = { headers_timeout_ms: 500, first_token_timeout_ms: 500, idle_timeout_ms: 500, total_timeout_ms: 700 };
const say = (text) => console.log(`[${((Date.now() - began) / 1000).toFixed(0).padStart(4)} s] soak: ${text}`);
const began = Date.now();

const plans = new Map();
const lines = new Map();
const faultsOfTheLog = [];

/** Takes a line of the Worker's log: those of requests, and what else matters. */
function takeLog(line) {
  if (!line.startsWith("{")) {
    if (/panicked|unreachable|RuntimeError|was not told/.test(line)) faultsOfTheLog.push(line);
    return;
  }
  const record = JSON.parse(line);
  if (record.route !== "completions") return;
  if (lines.has(record.request_id)) faultsOfTheLog.push(`a second line of ${line}`);
  lines.set(record.request_id, record);
}

const scripts = scriptsOf(plans);
const gateway = await startGateway({
  scripts: {
    well: scripts.well,
    faulty: { script: scripts.faulty, upstream: HASTY },
    "well in parts": { script: scripts["well in parts"], dialect: "openai-chat" },
    "faulty in parts": { script: scripts["faulty in parts"], dialect: "openai-chat", upstream: HASTY },
    ill: scripts.ill,
    limited: scripts.limited,
    held: pieces([events(textChunk("held")), (exchange) => exchange.closed]),
  },
  configure(config) {
    const both = (first) => ({ targets: [first, "well"].flatMap((name) => config.models[name].targets) });
    for (const name of ["faulty", "ill", "limited"]) config.models[`${name}, then well`] = both(name);
    return {
      ...config,
      keepalive_ms: 200,
      limits: { max_event_bytes: 16 * 1024, max_answer_bytes: 256 * 1024 },
      retry: { base_backoff_ms: 10, max_backoff_ms: 50, max_wait_ms: 1500 },
      // Only what fails without exception is passed over: the faulty targets are to be asked.
      breaker: { min_calls: 10, failure_rate_percent: 100, open_ms: 300, max_open_ms: 600 },
    };
  },
  onLog: takeLog,
  inspect: true,
});
const callers = await Promise.all(Array.from({ length: 3 }, () => gateway.addCaller({ tenant: { concurrent_requests: CLIENTS } })));
await untilTheDayHasTime((SECONDS + 120) * 1000);
say(`SOAK_SEED=${SEED} SOAK_SECONDS=${SECONDS} SOAK_CLIENTS=${CLIENTS}`);

// How requests ended, as their clients saw it, and what they may have cost.
const count = { complete: 0, error: 0, "client gone": 0 };
const bounds = { low: 0, high: 0, exact: 0, requests: 0 };
const wrong = [];
let asked = 0;

const problem = (plan, what) => {
  wrong.push(`${what}: ${JSON.stringify(plan)}`);
  if (wrong.length <= 5) say(`WRONG ${wrong.at(-1)}`);
};

/** One request, to its end. What is known of it stays until its line of the log has come. */
async function one(random, client) {
  const plan = drawPlan(random, `${client}-${(asked += 1)}`);
  // Its faults are used up on the way.
  const drawn = structuredClone(plan);
  plans.set(plan.id, plan);
  const caller = callers[client % callers.length];
  const prompts = plan.sources.map((source) => source.prompt);
  const body = { model: plan.model, prompt: prompts.length === 1 ? prompts[0] : prompts, stream: plan.streams, user: plan.id, max_tokens: 100 };
  const call = startCall(gateway.port, completionCall(caller.key, body, { headers: { "x-request-id": plan.id } }));
  const seen = await end(plan, call).catch((error) => ({ how: "error", broken: String(error) }));
  count[seen.how] += 1;
  if (seen.broken) problem(drawn, seen.broken);
  if (seen.how === "error" && plan.model === "well") problem(drawn, `a good target failed: ${JSON.stringify(seen)}`);
  await settle(drawn, seen);
  plans.delete(plan.id);
}

/** How a request ends for its client: `received` is the bytes of text of each choice. */
async function end(plan, call) {
  const leave = () => (plan.fin ? call.close() : call.hangUp());
  const gone = (response) => {
    leave();
    return { how: "client gone", received: response ? textOf(plan, response.textSoFar()) : undefined };
  };
  await within(call.sent, "a request to go out");
  if (plan.leaves === "at once") return gone();
  if (plan.leaves === "soon") {
    const first = await Promise.race([call.response.then((response) => ({ response })), sleep(plan.after).then(() => ({}))]);
    if (!first.response) return gone();
  }
  const response = await within(call.response, "a response", 30_000);
  if (plan.leaves && response.status === 200 && plan.streams) {
    if (plan.leaves === "without reading") response.pause();
    else await response.contains("\n\n");
    await sleep(plan.after);
    // It may have had all by then, which is for it to say.
    if (!response.textSoFar().endsWith("data: [DONE]\n\n")) return gone(response);
  }
  if (plan.rests) {
    response.pause();
    await sleep(plan.after);
    response.resume();
  }
  const body = await response.text(30_000);
  if (!response.clean()) return { how: "error", broken: `the answer broke off: ${body.slice(-200)}` };
  if (response.status !== 200) return { how: "error", status: response.status, code: nameOf(JSON.parse(body).error) };
  if (!plan.streams) return { how: "complete", received: JSON.parse(body).choices.map((choice) => choice.text.length) };
  const all = parseStream(body);
  const failed = "error" in all.at(-1);
  const received = textOf(plan, body);
  return failed ? { how: "error", status: 200, code: nameOf(all.at(-1).error), received } : { how: "complete", received };
}

/** An error, as the log calls it. */
const nameOf = ({ code, type }) => code ?? type;

/** The bytes of text of each choice in as much of a stream as there is. */
function textOf(plan, text) {
  const whole = text.slice(0, text.lastIndexOf("\n\n") + 2).split("\n\n").filter((block) => block.startsWith("data: {"));
  const chunks = whole.map((block) => JSON.parse(block.slice(6))).filter((chunk) => chunk.choices);
  const choices = choicesOf(chunks);
  return plan.sources.map((_, index) => choices[index]?.text.length ?? 0);
}

/** What a request may have cost, by what its client saw and what the upstream has to say; then what the log says. */
async function settle(plan, { how, status, code, received, broken }) {
  const isServed = how === "complete" || (how === "error" && status === 200);
  const range = { prompt: [0, 0], completion: [0, 0] };
  plan.sources.forEach(({ prompt, texts, usage }, index) => {
    const whole = texts.join("").length;
    const got = received?.[index] ?? 0;
    if (how === "complete" && got !== whole) problem(plan, `of ${whole} bytes of text came ${got}`);
    if (got > whole) problem(plan, `text came twice: ${got} of ${whole} bytes`);
    const guess = [tokensOf(prompt.length), tokensOf(got)];
    const counted = usage ? [usage.prompt_tokens, usage.completion_tokens] : [tokensOf(prompt.length), tokensOf(whole)];
    let [prompts, completions] = [[counted[0]], [counted[1]]];
    if (how === "error") {
      // A stream that breaks off is not counted, but for those of its calls that came to their end before.
      const isRace = plan.sources.length > 1;
      prompts = isServed ? [guess[0], isRace ? counted[0] : guess[0]] : [0];
      completions = isServed ? [guess[1], isRace && got === whole ? counted[1] : guess[1]] : [0];
    } else if (how === "client gone") {
      // Of what the Worker has sent on, the client has had some. What was not begun costs nothing.
      const begun = received?.some((bytes) => bytes > 0);
      prompts = [begun ? guess[0] : 0, guess[0], counted[0]];
      completions = [begun ? guess[1] : 0, tokensOf(whole), counted[1]];
    }
    range.prompt[0] += Math.min(...prompts);
    range.prompt[1] += Math.max(...prompts);
    range.completion[0] += Math.min(...completions);
    range.completion[1] += Math.max(...completions);
  });

  // A client that goes before the Worker has read its request leaves no trace.
  const record = await lineOf(plan.id, how === "client gone" ? 3000 : CLOSING_MS);
  if (!record) {
    if (how !== "client gone") problem(plan, "there is no line of it in the log");
    return;
  }
  const { prompt_tokens: prompt, completion_tokens: completion } = record;
  const within = (value, [low, high]) => value >= low && value <= high;
  if (!broken && !(within(prompt, range.prompt) && within(completion, range.completion))) {
    problem(plan, `${how} ${status ?? ""} ${code ?? ""} with ${received} costs ${JSON.stringify(range)}, and the log has ${JSON.stringify(record)}`);
  }
  const allowed = { complete: ["complete"], error: ["error"], "client gone": ["complete", "error", "client_gone"] }[how];
  if (!allowed.includes(record.ended)) problem(plan, `${how} for its client, and ${record.ended} for the log`);
  if (how === "error" && record.error !== code && !broken) problem(plan, `the client was told ${code}, and the log ${record.error}`);
  bounds.low += range.prompt[0] + range.completion[0];
  bounds.high += range.prompt[1] + range.completion[1];
  if (range.prompt[0] === range.prompt[1] && range.completion[0] === range.completion[1]) bounds.exact += 1;
  bounds.requests += 1;
}

async function lineOf(id, limitMs) {
  const until = Date.now() + limitMs;
  while (!lines.has(id) && Date.now() < until) await sleep(10);
  return lines.get(id);
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

// The run. `warm` is what the isolate held when it had warmed up.
const resident = [];
let seconds = 0;
let warm;
const tick = setInterval(() => {
  seconds += 1;
  // What is over needs no memory of ours.
  gateway.upstream.requests.splice(0, Infinity, ...gateway.upstream.underWay());
  const bytes = residentBytes(gateway.pid);
  if (bytes !== undefined) resident.push(bytes / MEGABYTE);
  if (seconds % COLLECT_SECONDS === 0) for (const isolate of gateway.isolates) isolate.collect();
  if (seconds === WARM_SECONDS) {
    warm = gateway.isolate.held();
    // It is looked at in the end.
    warm.catch(() => {});
  }
  if (seconds % 30 === 0) say(`${asked} requests, ${JSON.stringify(count)}, workerd holds ${resident.at(-1)?.toFixed(0)} MB`);
}, 1000);

async function client(number) {
  const random = generator(SEED + number);
  while (Date.now() < began + SECONDS * 1000 && wrong.length < 20) await one(random, number);
}

let failed = true;
try {
  await Promise.all(Array.from({ length: CLIENTS }, (_, number) => client(number)));
  say(`${asked} requests, ${JSON.stringify(count)}; the books …`);

  await eventually("the upstream's calls to end", () => (gateway.upstream.underWay().length === 0 ? true : undefined), CLOSING_MS);

  // The ledger against the log, tenant by tenant: requests that reached a target were admitted. One that found its
  // targets' breakers open only after it had been admitted is in the ledger too, at no cost.
  for (const caller of callers) {
    let seen;
    const books = await eventually("the ledger to have what the log has", async () => {
      const sum = sumOf(await caller.usage());
      const own = [...lines.values()].filter((record) => record.tenant === caller.tenant);
      const total = (name) => own.reduce((sum, record) => sum + record[name], 0);
      const log = { lines: own.length, tried: own.filter((record) => record.attempts > 0).length, prompt_tokens: total("prompt_tokens"), completion_tokens: total("completion_tokens") };
      seen = { ledger: sum, log };
      const agree = sum.requests >= log.tried && sum.requests <= log.lines && ["prompt_tokens", "completion_tokens"].every((name) => sum[name] === log[name]);
      return agree ? sum : undefined;
    }, CLOSING_MS).catch((error) => assert.fail(`${error.message}: ${JSON.stringify(seen)}`));
    assert.equal(books.refused, 0, "nobody was refused: there are as many places as clients");
  }

  // Every place is free: as many streams as there are places, and not one more.
  for (const caller of callers) {
    const ask = () => caller.complete({ model: "held", prompt: "p", stream: true });
    const held = await Promise.all(Array.from({ length: CLIENTS }, ask));
    assert.deepEqual(new Set(held.map(({ status }) => status)), new Set([200]), "a place is still taken");
    assert.equal((await ask()).status, 429);
    for (const response of held) response.hangUp();
  }
  await eventually("the held streams' calls to end", () => (gateway.upstream.underWay().length === 0 ? true : undefined), CLOSING_MS);

  if (warm) {
    const [before, after] = [await warm, await heldLittleMore(gateway.isolate, await warm, MORE_OBJECTS)];
    say(`its buffers had ${before.bufferBytes} bytes, and have ${after.bufferBytes}; no kind of object has ${MORE_OBJECTS} more than before`);
    assert.ok(after.bufferBytes < before.bufferBytes + MORE_BUFFER_BYTES, "the isolate's memory has grown");
  } else {
    say(`SKIPPED: what the isolate holds, since ${SECONDS} s are less than it takes to warm up`);
  }
  const [early, late] = [resident.slice(WARM_SECONDS, 2 * WARM_SECONDS), resident.slice(-WARM_SECONDS)].map(median);
  if (resident.length >= 2 * WARM_SECONDS) {
    say(`workerd held ${early.toFixed(0)} MB after it had warmed up, and ${late.toFixed(0)} MB at the end`);
    assert.ok(late < early + GROWTH_MEGABYTES, "workerd has grown");
  } else {
    say(`SKIPPED: the memory of workerd, since it is unknown here, or ${SECONDS} s are less than it takes to warm up`);
  }
  assert.deepEqual(faultsOfTheLog, []);
  assert.deepEqual(wrong.length, 0, `${wrong.length} requests went wrong`);
  const sum = [...lines.values()].reduce((total, record) => total + record.prompt_tokens + record.completion_tokens, 0);
  assert.ok(sum >= bounds.low && sum <= bounds.high);
  say(`${bounds.requests} lines of the log, ${bounds.exact} of them to the token; ${sum} tokens, between ${bounds.low} and ${bounds.high}`);
  assert.ok(Object.values(count).every((ends) => ends > 0), "there was some of everything");
  failed = false;
} finally {
  clearInterval(tick);
  await gateway.stop();
  say(failed ? `FAILED; again with SOAK_SEED=${SEED}` : "good");
}

function sumOf(rows) {
  const total = (name) => rows.reduce((sum, row) => sum + row[name], 0);
  return Object.fromEntries(["requests", "prompt_tokens", "completion_tokens", "refused"].map((name) => [name, total(name)]));
}

function median(values) {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}
