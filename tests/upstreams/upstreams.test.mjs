// The gateway in front of real model servers: what it answers is what the server itself says to the same request.
//
// The server is always asked on its own /v1/completions, whatever the dialect: its model recites, and its chat
// template leaves a prompt as it is, so that every route of a server has the same answer. Where a server does not do
// what the API says, its row names the drift, and the test is of what happens instead.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { completionCall } from "../e2e/harness/gateway.mjs";
import { send, startCall } from "../e2e/harness/http_client.mjs";
import { makeTenant } from "../e2e/harness/records.mjs";
import { assertErrorShape, splitAtError } from "../e2e/harness/sse.mjs";
import { eventually } from "../e2e/harness/wait.mjs";
import { startWorker } from "../e2e/harness/worker.mjs";
import { gatewayStream, serverStream, wholeAnswer } from "./answers.mjs";
import { llamaCpp, mlxLm, ollama } from "./servers.mjs";

// What tiny_model.py has the model say after "Pale", in 18 tokens with the end of text, and after "tick", without end.
const RECITAL = " light finds the hill café 夜明け 🌅 sparrows shake dew naïve wings then all is day";
const until = (stop) => RECITAL.slice(0, RECITAL.indexOf(stop));

const PALE = { prompt: "I say Pale", max_tokens: 64, temperature: 0 };
const TICK = { prompt: " tick", max_tokens: 5, temperature: 0 };
const TOO_LONG = (server) => ({ ...TICK, prompt: " tick".repeat(server.context + 200) });
const STREAM = { stream: true, stream_options: { include_usage: true } };
const TWICE = { ...PALE, n: 2 };
const TWO_PROMPTS = { ...TICK, prompt: ["I say Pale", " tick"] };
const LIKELY = { ...PALE, logprobs: 2 };

// ── The checks ─────────────────────────────────────────────────────────────────────────────────────────────────────
// A check is a function of the subject (below) and the request.

async function sameAsServer(subject, request) {
  const [answer, own] = [await subject.complete(request), await subject.askServer(request)];
  assert.deepEqual(withoutLogprobs(answer), withoutLogprobs(own));
  return answer;
}
const withoutLogprobs = ({ choices, usage }) => ({ choices: choices.map(({ text, finish_reason }) => ({ text, finish_reason })), usage });

/** Both say this, but for the space before the first word, which one of the servers strips. */
const recites = (wanted, finish_reason) => async (subject, request) => {
  const [choice] = (await sameAsServer(subject, request)).choices;
  assert.deepEqual([choice.text.trimStart(), choice.finish_reason], [wanted.trimStart(), finish_reason]);
};

async function sameLogprobsAsServer(subject, request) {
  const [answer, own] = [await subject.complete(request), await subject.askServer(request)];
  const [found, wanted] = [answer.choices[0].logprobs, own.choices[0].logprobs];
  assert.ok(wanted, "the server has log probabilities");
  assert.ok(found, "the gateway has log probabilities");
  assert.deepEqual(found.map(({ token }) => token), wanted.map(({ token }) => token));
  found.forEach((one, at) => {
    closeTo(one.logprob, wanted[at].logprob, one.token);
    assert.deepEqual(Object.keys(one.top).sort(), Object.keys(wanted[at].top).sort());
    for (const [token, logprob] of Object.entries(one.top)) closeTo(logprob, wanted[at].top[token], `${token} at ${at}`);
  });
}

// What a server has of the prompt in its cache it does not compute again, and floating point is not associative.
const closeTo = (found, wanted, what) => assert.ok(Math.abs(found - wanted) < 0.01, `${what}: ${found} instead of ${wanted}`);

/** All choices have these texts, but for the space before the first word, which one of the servers strips; `completionTokens` are those of all of them. */
const choices = (texts, completionTokens) => async (subject, request) => {
  const answer = await subject.complete(request);
  assert.deepEqual(answer.choices.map(({ text }) => text.trimStart()), texts.map((text) => text.trimStart()));
  assert.equal(answer.usage.completion_tokens, completionTokens);
};

/** The client is told what is wrong in the API's shape, and nothing looks like an answer. */
const refused = (statuses, words) => async (subject, request) => {
  const { status, error } = await subject.fail(request);
  assert.ok(statuses.includes(status), `${status} ${JSON.stringify(error)}`);
  assert.match(error.message, words);
};
const tooLong = refused([400, 413], /context|length|long/i);

async function eightAtOnce(subject) {
  const requests = Array.from({ length: 8 }, (_, at) => ({ ...PALE, ...STREAM, prompt: `${at} ${at % 2 ? "Pale" : "the"}` }));
  const answers = await Promise.all(requests.map((request) => subject.complete(request)));
  answers.forEach((answer, at) => {
    assert.equal(answer.choices[0].text.trimStart(), (at % 2 ? RECITAL : RECITAL.slice(until(" hill").length)).trimStart());
    assert.equal(answer.choices[0].finish_reason, "stop");
  });
}

/** Alone it would go on for far longer than a test waits. */
async function leaves(subject, request, context) {
  const { server } = subject;
  const response = await subject.start(request).response;
  await response.contains("tock");
  const busy = await server.isBusy();
  if (busy === undefined) return context.skip("this system does not tell what a process does");
  assert.ok(busy, "the server is at work");
  response.hangUp();
  await eventually("the server to stop generating", async () => ((await server.isBusy()) ? undefined : true));
}

/**
 * name → `[the check, the request, what the request needs of a dialect, as /v1/models names it]`; the request may be a
 * function of the running server. Two prompts stand last: one of the servers does not survive them.
 */
const CHECKS = {
  "a whole answer": [recites(RECITAL, "stop"), PALE],
  "a stream": [recites(RECITAL, "stop"), { ...PALE, ...STREAM }],
  "an end at max_tokens": [recites(" tock tick tock tick tock", "length"), TICK],
  "an end at max_tokens, streaming": [recites(" tock tick tock tick tock", "length"), { ...TICK, ...STREAM }],
  "an end before the first word": [recites("", "stop"), { ...PALE, prompt: "is day" }],
  "an end before the first word, streaming": [recites("", "stop"), { ...PALE, ...STREAM, prompt: "is day" }],
  "an end amid a character": [sameAsServer, { ...PALE, max_tokens: 7 }],
  "an end amid a character, streaming": [sameAsServer, { ...PALE, ...STREAM, max_tokens: 7 }],
  "a stop sequence": [recites(until(" shake"), "stop"), { ...PALE, stop: [" shake"] }, "stop"],
  "a stop sequence, streaming": [recites(until(" shake"), "stop"), { ...PALE, ...STREAM, stop: " shake" }, "stop"],
  "a stop sequence across tokens": [recites(until("hill ca"), "stop"), { ...PALE, stop: ["hill ca"] }, "stop"],
  "a stop sequence across tokens, streaming": [recites(until("hill ca"), "stop"), { ...PALE, ...STREAM, stop: ["never said", "hill ca"] }, "stop"],
  "sampling with a seed": [sameAsServer, { ...PALE, temperature: 1, seed: 7 }, "seed"],
  "log probabilities": [sameLogprobsAsServer, LIKELY, "logprobs"],
  "log probabilities, streaming": [sameLogprobsAsServer, { ...LIKELY, ...STREAM }, "logprobs"],
  "two choices": [choices([RECITAL, RECITAL], 36), TWICE, "n"],
  "two choices, streaming": [choices([RECITAL, RECITAL], 36), { ...TWICE, ...STREAM }, "n"],
  "a prompt that is too long": [tooLong, TOO_LONG],
  "a prompt that is too long, streaming": [tooLong, (server) => ({ ...TOO_LONG(server), ...STREAM })],
  "a model that the server does not know": [refused([404], /nope|found|find/i), { ...TICK, model: "stray" }],
  "a stream of a thousand tokens": [recites(" tock tick".repeat(500), "length"), { ...TICK, ...STREAM, max_tokens: 1000 }],
  "eight streams at once": [eightAtOnce, PALE],
  "a client that leaves stops the server": [leaves, { ...TICK, stream: true, max_tokens: 30_000 }],
  "two prompts": [choices([until(" 夜"), " tock tick tock tick tock"], 10), TWO_PROMPTS, "prompt_array"],
  "two prompts, streaming": [choices([until(" 夜"), " tock tick tock tick tock"], 10), { ...TWO_PROMPTS, ...STREAM }, "prompt_array"],
};

// ── The drifts ─────────────────────────────────────────────────────────────────────────────────────────────────────

// name of the check → `{ says, check }`: what the server does, and a check of that.

const drift = (names, says, check) => Object.fromEntries(names.map((name) => [name, { says, check }]));
const bothWays = (name) => [name, `${name}, streaming`];
const answers = (subject, request) => subject.complete(request);

const COUNTS_ONE_CHOICE = {
  ...drift(["two choices"], "the server counts the tokens of one", choices([RECITAL, RECITAL], 18)),
};
const COUNTS_ONE_PROMPT = {
  ...drift(["two prompts"], "the server counts the tokens of one", choices([until(" 夜"), " tock tick tock tick tock"], 5)),
};
const ANY_MODEL = drift(["a model that the server does not know"], "the server does not look at the name", answers);

const ONE_CHOICE = {
  ...drift(["two choices"], "the server gives one, which is no answer", async (subject, request) => {
    const { status, error } = await subject.fail(request);
    assert.deepEqual([status, error.code], [502, "upstream_error"]);
  }),
  ...drift(["two choices, streaming"], "the server gives one, and the stream ends as incomplete", async (subject, request) => {
    const [chunks, error] = await subject.breakOff(request);
    assert.ok(chunks.every((chunk) => chunk.choices.every((choice) => choice.index === 0)));
    assert.equal(error.code, "upstream_incomplete");
  }),
};
const noLogprobs = async (subject, request) => {
  assert.equal((await subject.complete(request)).choices[0].logprobs, undefined);
};
const NO_LOGPROBS = drift(bothWays("log probabilities"), "the server leaves them out without a word", noLogprobs);
const CUTS_PROMPTS = drift(bothWays("a prompt that is too long"), "the server cuts it off without a word", async (subject, request) => {
  assert.ok((await subject.complete(request)).usage.prompt_tokens <= subject.server.context);
});
const NO_LIMIT = drift(bothWays("a prompt that is too long"), "the server knows no bound", async (subject, request) => {
  assert.ok((await subject.complete(request)).usage.prompt_tokens > subject.server.context);
});
const CUTS_OUT = drift(
  bothWays("a stop sequence across tokens"),
  "the server cuts it out and goes on",
  recites(RECITAL.replace("hill ca", ""), "stop"),
);

// A row's `name` tells two of one dialect apart; `upstream` is what its upstream has besides.
const ROWS = [
  { server: llamaCpp, dialect: "llama-cpp", path: "", drifts: { ...ANY_MODEL } },
  {
    server: llamaCpp,
    name: "openai-completions with n and prompt arrays by the gateway",
    dialect: "openai-completions",
    path: "/v1",
    upstream: { capabilities: { n: "emulated", prompt_array: "emulated" } },
    drifts: { ...ANY_MODEL },
  },
  {
    server: ollama,
    dialect: "ollama",
    path: "/api",
    drifts: {
      ...CUTS_PROMPTS,
      ...NO_LOGPROBS,
      ...drift(["sampling with a seed"], "its own route samples from fewer tokens than /v1, and repeats itself", async (subject, request) => {
        assert.deepEqual((await subject.complete(request)).choices, (await subject.complete(request)).choices);
      }),
    },
  },
  { server: llamaCpp, dialect: "openai-completions", path: "/v1", drifts: { ...COUNTS_ONE_CHOICE, ...COUNTS_ONE_PROMPT, ...ANY_MODEL } },
  {
    server: llamaCpp,
    dialect: "openai-chat",
    path: "/v1",
    drifts: {
      ...COUNTS_ONE_CHOICE,
      ...drift(["two choices, streaming"], "a chat's stream ends with the tokens of one", choices([RECITAL, RECITAL], 18)),
      ...ANY_MODEL,
      ...drift(["an end amid a character"], "a whole chat leaves the half character out", async (subject, request) => {
        assert.equal((await subject.complete(request)).choices[0].text, until("🌅"));
      }),
      ...drift(["log probabilities, streaming"], "a chat's stream has none for the end of text", (subject, request) =>
        sameLogprobsAsServer({ ...subject, askServer: async (request) => withoutLastLogprob(await subject.askServer(request)) }, request),
      ),
    },
  },
  {
    server: ollama,
    dialect: "openai-completions",
    path: "/v1",
    drifts: {
      ...ONE_CHOICE,
      ...NO_LOGPROBS,
      ...CUTS_PROMPTS,
      ...drift(bothWays("two prompts"), "the server takes one text", refused([400], /array/)),
    },
  },
  { server: ollama, dialect: "openai-chat", path: "/v1", drifts: { ...ONE_CHOICE, ...NO_LOGPROBS, ...CUTS_PROMPTS } },
  {
    server: mlxLm,
    dialect: "openai-chat",
    path: "/v1",
    drifts: {
      ...ONE_CHOICE,
      ...NO_LIMIT,
      ...CUTS_OUT,
      ...drift(["log probabilities"], "tokens are written as the model's file has them", async (subject, request) => {
        const [{ text, logprobs }] = (await subject.complete(request)).choices;
        assert.equal(logprobs[1].token, "Ġfinds");
        assert.equal(text, RECITAL.trimStart());
      }),
      ...drift(["log probabilities, streaming"], "the server leaves them out without a word", noLogprobs),
    },
  },
  {
    server: mlxLm,
    dialect: "openai-completions",
    path: "/v1",
    drifts: {
      ...ONE_CHOICE,
      ...NO_LIMIT,
      ...CUTS_OUT,
      ...drift(bothWays("log probabilities"), "the server wants a boolean", refused([400], /logprobs must be of type bool/)),
      ...drift(bothWays("two prompts"), "the server dies of them", refused([404], /generation thread died/)),
    },
  },
];

function withoutLastLogprob(answer) {
  const [choice] = answer.choices;
  return { ...answer, choices: [{ ...choice, logprobs: choice.logprobs.slice(0, -1) }] };
}

// ── The tests ──────────────────────────────────────────────────────────────────────────────────────────────────────

for (const server of new Set(ROWS.map((row) => row.server))) {
  suite(server.name, { skip: server.missing ? "not set up: tests/upstreams/run does that" : false }, () => {
    const rows = ROWS.filter((row) => row.server === server);
    let running;
    let worker;
    let key;
    before(async () => {
      running = await server.start();
      worker = await startWorker({ config: configOf(rows, running), tenants: { demo: makeTenant() } });
      key = await worker.addKey();
    });
    after(async () => {
      await worker?.stop();
      await running?.stop();
    });

    for (const row of rows) {
      suite(nameOf(row), () => {
        const subject = () => subjectOf(row, running, worker, key);
        for (const [name, [check, request, needs]] of Object.entries(CHECKS)) {
          const { says, check: instead } = row.drifts?.[name] ?? {};
          test(says ? `${name}: ${says}` : name, async (context) => {
            const body = typeof request === "function" ? request(running) : request;
            if (needs && (await subject().support(needs)) === "unsupported") return refusedByGateway(subject(), body);
            await (instead ?? check)(subject(), body, context);
          });
        }
      });
    }
  });
}

async function refusedByGateway(subject, request) {
  const { status, error } = await subject.fail(request);
  assert.deepEqual([status, error.code], [400, "unsupported_parameter"]);
}

/** For each row a model of its name, and one that the server has not got. */
function nameOf({ name, dialect }) {
  return name ?? dialect;
}

function configOf(rows, { origin, model }) {
  const upstream = ({ dialect, path, upstream: fields }) => ({ dialect, base_url: `${origin}${path}`, ...fields });
  const upstreams = Object.fromEntries(rows.map((row) => [nameOf(row), upstream(row)]));
  const models = rows.flatMap((row) => [
    [nameOf(row), { targets: [{ upstream: nameOf(row), model }], ...row.model }],
    [`stray-${nameOf(row)}`, { targets: [{ upstream: nameOf(row), model: "nope" }], ...row.model }],
  ]);
  return { version: 1, upstreams, models: Object.fromEntries(models) };
}

// A server may have to share its cores with others.
const PATIENCE_MS = 60_000;

/** One dialect of one server, as a check sees it. A request has no model but "stray": see `configOf`. */
function subjectOf(row, server, worker, key) {
  const name = nameOf(row);
  const call = (request) => completionCall(key, { ...request, model: request.model ? `${request.model}-${name}` : name });
  const ask = async (request) => {
    const response = await send(worker.port, { ...call(request), limitMs: PATIENCE_MS });
    return { status: response.status, text: await response.text(PATIENCE_MS) };
  };
  return {
    server,
    start: (request) => startCall(worker.port, call(request)),
    /** The gateway's answer, which has to be one. */
    async complete(request) {
      const { status, text } = await ask(request);
      assert.equal(status, 200, text);
      return request.stream ? gatewayStream(text) : wholeAnswer(text);
    },
    /** The gateway's error, which has to be one: by its status, or in a stream that says nothing before it. */
    async fail(request) {
      const { status, text } = await ask(request);
      if (status !== 200) {
        const { error } = JSON.parse(text);
        assertErrorShape(error);
        return { status, error };
      }
      assert.ok(request.stream, `an answer instead of an error: ${text.slice(0, 1000)}`);
      const [chunks, error] = splitAtError(text);
      assert.deepEqual(chunks, []);
      return { status, error };
    },
    /** The gateway's stream, which has to end with an error: `[chunks, error]`. */
    breakOff: async (request) => splitAtError((await ask(request)).text),
    /** What the server says to the same request without the gateway. */
    async askServer(request) {
      const body = JSON.stringify({ ...request, model: server.model });
      const response = await fetch(`${server.origin}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body });
      const text = await response.text();
      assert.equal(response.status, 200, text);
      return request.stream ? serverStream(text) : wholeAnswer(text);
    },
    /** native, emulated or unsupported. */
    async support(parameter) {
      const response = await send(worker.port, { path: `/v1/models/${encodeURIComponent(name)}`, headers: { authorization: `Bearer ${key}` } });
      return (await response.json()).capabilities[parameter];
    },
  };
}
