// Runs jobs with the official Node SDK; the same in and out as the programs in Python and Go.
import OpenAI, { APIError } from "openai";

export async function runJobs({ base_url, api_key, jobs }) {
  const results = {};
  for (const job of jobs) {
    // "default" is what every user has; all other jobs want to see the first answer.
    const retries = job.retries === "default" ? {} : { maxRetries: 0 };
    const client = new OpenAI({ baseURL: base_url, apiKey: job.api_key ?? api_key, ...retries });
    results[job.name] = await run(client, job);
  }
  return results;
}

async function run(client, job) {
  const params = { model: job.model, prompt: "Write a haiku about dawn", ...job.params };
  const result = { text: "", delta_text: "", finish_reason: null, usage: null, chunks: 0 };
  try {
    if (!job.stream) {
      const resp = await client.completions.create(params);
      const [{ text, finish_reason }] = resp.choices;
      return { text, finish_reason, usage: plainUsage(resp.usage), model: resp.model };
    }
    const stream = await client.completions.create({ ...params, stream: true });
    for await (const part of stream) {
      result.chunks += 1;
      result.model = part.model;
      if (part.usage) result.usage = plainUsage(part.usage);
      // As the API's documentation reads a chunk.
      const delta = part?.choices?.[0]?.delta?.text;
      const legacy = part?.choices?.[0]?.text;
      result.text += delta ?? legacy ?? "";
      result.delta_text += delta ?? "";
      result.finish_reason = part.choices[0]?.finish_reason ?? result.finish_reason;
    }
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    result.error = plainError(error);
  }
  return result;
}

function plainUsage({ prompt_tokens, completion_tokens, total_tokens }) {
  return { prompt_tokens, completion_tokens, total_tokens };
}

function plainError(error) {
  const { status, type, param, code } = error;
  // The SDK puts the status before the message; the body as the server sent it has it alone.
  return { class: error.constructor.name, status, message: error.error?.message ?? error.message, type, param, code };
}
