// Libraries on top of the API that have a model class for completions: LangChain in Python and JavaScript, and
// the Vercel AI SDK; and curl, as the documentation shows it.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { OpenAI as LangChainOpenAI } from "@langchain/openai";
import { APICallError, generateText, streamText } from "ai";
import { startGateway } from "./harness/gateway.mjs";
import { HAIKU, HAIKU_MODELS } from "./harness/haiku.mjs";
import { runJobs, runProgram } from "./harness/programs.mjs";
import { events, stream, textChunk, USAGE } from "./harness/scripts.mjs";
import { choicesOf, chunksOf } from "./harness/sse.mjs";

const { E2E_PYTHON } = process.env;
const PROMPT = "Write a haiku about dawn";
const MODELS = Object.keys(HAIKU_MODELS);

const SCRIPTS = {
  ...HAIKU_MODELS,
  "fails amid the stream": stream(events(textChunk("Pale"), { error: { message: "out of memory", type: "server_error" } })),
};

// The AI SDK warns of an option that it sets itself and the completions model has not.
globalThis.AI_SDK_LOG_WARNINGS = false;

suite("libraries", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({ scripts: SCRIPTS });
  });
  after(() => gateway?.stop());

  suite("LangChain, JavaScript", () => {
    const model = (name) =>
      new LangChainOpenAI({ model: name, apiKey: gateway.key, configuration: { baseURL: gateway.baseURL }, maxRetries: 0 });

    for (const name of MODELS) {
      test(`${name}, not streaming`, async () => {
        const { generations, llmOutput } = await model(name).generate([PROMPT]);
        assert.equal(generations[0][0].text, HAIKU);
        assert.equal(generations[0][0].generationInfo.finishReason, "stop");
        assert.equal(llmOutput.tokenUsage.totalTokens, USAGE.total_tokens);
      });
      test(`${name}, streaming`, async () => {
        assert.equal(await joined(await model(name).stream(PROMPT)), HAIKU);
      });
    }
    test("an error amid the stream is raised", async () => {
      await assert.rejects(async () => joined(await model("fails amid the stream").stream(PROMPT)));
    });
    test("an unknown model is raised", async () => {
      await assert.rejects(model("nope").invoke(PROMPT), /does not exist or you do not have access to it/);
    });
  });

  suite("LangChain, Python", { skip: E2E_PYTHON ? false : "not set up: tests/e2e/run does that" }, () => {
    let results;
    before(async () => {
      const jobs = [...MODELS.flatMap((model) => [
        { name: model, model, stream: false },
        { name: `${model}, streaming`, model, stream: true },
      ]), { name: "broken", model: "fails amid the stream", stream: true }, { name: "nope", model: "nope", stream: false }];
      results = await runJobs(E2E_PYTHON, [join(import.meta.dirname, "clients/python/client.py")], {
        base_url: gateway.baseURL,
        api_key: gateway.key,
        jobs: jobs.map((job) => ({ library: "langchain", ...job })),
      });
    });

    for (const model of MODELS) {
      test(`${model}, not streaming`, () => {
        const { text, finish_reason, usage } = results[model];
        assert.deepEqual([text, finish_reason, usage.total_tokens], [HAIKU, "stop", USAGE.total_tokens]);
      });
      test(`${model}, streaming`, () => assert.equal(results[`${model}, streaming`].text, HAIKU));
    }
    test("an error amid the stream is raised", () => assert.equal(results.broken.error.is_api_error, true));
    test("an unknown model is raised", () => assert.deepEqual([results.nope.error.status, results.nope.error.code], [404, "model_not_found"]));
  });

  const PROVIDERS = {
    "@ai-sdk/openai": (name) => createOpenAI({ baseURL: gateway.baseURL, apiKey: gateway.key }).completion(name),
    "@ai-sdk/openai-compatible": (name) =>
      createOpenAICompatible({ name: "edge", baseURL: gateway.baseURL, apiKey: gateway.key, includeUsage: true }).completionModel(name),
  };
  for (const [provider, model] of Object.entries(PROVIDERS)) {
    suite(`Vercel AI SDK, ${provider}`, () => {
      const call = (name) => ({ model: model(name), prompt: PROMPT, maxRetries: 0 });

      for (const name of MODELS) {
        test(`${name}, not streaming`, async () => {
          const { text, finishReason, usage } = await generateText(call(name));
          assert.deepEqual([text, finishReason], [HAIKU, "stop"]);
          assert.deepEqual([usage.inputTokens, usage.outputTokens], [USAGE.prompt_tokens, USAGE.completion_tokens]);
        });
        test(`${name}, streaming`, async () => {
          const result = streamText(call(name));
          assert.equal(await joined(result.textStream), HAIKU);
          assert.equal(await result.finishReason, "stop");
          assert.deepEqual([(await result.usage).inputTokens, (await result.usage).outputTokens], [USAGE.prompt_tokens, USAGE.completion_tokens]);
        });
      }
      test("an error amid the stream is told", async () => {
        let told;
        const result = streamText({ ...call("fails amid the stream"), onError: ({ error }) => (told = error) });
        assert.equal(await joined(result.textStream), "Pale");
        assert.ok(told, "the error reached the caller");
      });
      test("an unknown model is raised", async () => {
        await assert.rejects(generateText(call("nope")), (error) => {
          assert.ok(APICallError.isInstance(error), String(error));
          assert.equal(error.statusCode, 404);
          assert.match(error.message, /does not exist or you do not have access to it/);
          return true;
        });
      });
    });
  }

  test("curl -N, as the documentation has it", async () => {
    const output = await runProgram("curl", [
      "-sSN", "-X", "POST", `${gateway.baseURL}/completions`,
      "-H", "Content-Type: application/json",
      "-H", `Authorization: Bearer ${gateway.key}`,
      "-d", JSON.stringify({ model: "babbage-002", prompt: PROMPT, stream: true, max_tokens: 64 }),
    ], "");
    assert.deepEqual(choicesOf(chunksOf(output)), { 0: { text: HAIKU, finish_reason: "stop" } });
  });
});

async function joined(pieces) {
  let text = "";
  for await (const piece of pieces) text += piece;
  return text;
}
