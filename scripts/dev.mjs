// make dev [PORT=…] [UPSTREAM_PORT=…] [UPSTREAM=http://…/v1 [UPSTREAM_MODEL=…] [UPSTREAM_KEY=…]]
//
// Runs the built Worker on workerd with a local KV, and the demo upstream (in this process) unless UPSTREAM names
// a server. Ends, with everything it started, on Ctrl-C or when either of the two ends.
import { setTimeout as pause } from "node:timers/promises";
import { createDemoUpstream } from "../demo/upstream.mjs";
import { adminAt } from "./lib/admin.mjs";
import { optional } from "./lib/arguments.mjs";
import { command } from "./lib/command.mjs";
import { writeSecrets } from "./lib/dev-secrets.mjs";
import { configFor, seed } from "./lib/dev-seed.mjs";
import { demandFree, portArgument } from "./lib/ports.mjs";
import { refuse, say } from "./lib/step.mjs";
import { startWrangler } from "./lib/wrangler.mjs";

const READY_WITHIN_MS = 60_000;

/// The server that UPSTREAM names, or null for the demo upstream.
async function ownUpstream() {
  const given = optional("UPSTREAM");
  if (given === null) return null;
  if (!/^https?:$/.test(URL.parse?.(given)?.protocol ?? "")) throw refuse(`UPSTREAM must be a URL such as http://127.0.0.1:8000/v1; it is "${given}"`);
  const baseUrl = given.replace(/\/+$/, "");
  const key = optional("UPSTREAM_KEY");
  return { baseUrl, key, keyName: key && "UPSTREAM_KEY", model: optional("UPSTREAM_MODEL") ?? (await firstModel(baseUrl, key)) };
}

async function firstModel(baseUrl, key) {
  try {
    const answer = await fetch(`${baseUrl}/models`, {
      headers: key ? { authorization: `Bearer ${key}` } : {},
      signal: AbortSignal.timeout(5000),
    });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    return (await answer.json()).data[0].id;
  } catch (error) {
    throw refuse(`${baseUrl}/models does not say which models there are (${error.cause?.code ?? error.message}). Name one with UPSTREAM_MODEL=…`);
  }
}

function startDemoUpstream(port, key) {
  const server = createDemoUpstream({ key });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve(server));
  });
}

/// Starts wrangler with what it says held back until the Worker answers, and shown at once if it does not. Gives
/// `{ended}`, a promise of why it ended.
async function startWorker(port) {
  const child = startWrangler(["dev", "--local", "--ip", "127.0.0.1", "--port", String(port), "--show-interactive-dev-session=false"], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let held = "";
  let show = (text) => { held += text; };
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => show(text));
  const ended = child.ended.then(({ code, signal, error }) => `wrangler ended (${error?.message ?? signal ?? `exit code ${code}`})`);
  const problem = await Promise.race([ended, answers(port)]);
  if (problem) throw Object.assign(refuse(problem), { log: held });
  show = (text) => process.stdout.write(text);
  return { ended };
}

/// Resolves to nothing once /healthz answers well, or to what is wrong.
async function answers(port) {
  let last = "no answer";
  for (const deadline = Date.now() + READY_WITHIN_MS; Date.now() < deadline; await pause(100)) {
    try {
      const { ok, status } = await fetch(`http://127.0.0.1:${port}/healthz`, { signal: AbortSignal.timeout(5000) });
      if (ok) return "";
      last = `status ${status}`;
    } catch (error) {
      last = error.cause?.code ?? error.message;
    }
  }
  return `the Worker did not answer /healthz within ${READY_WITHIN_MS / 1000} s (${last})`;
}

function welcome({ port, key, upstream }) {
  const curl = (options, body) => `curl ${options}http://127.0.0.1:${port}/v1/completions \\
  -H 'Authorization: Bearer ${key}' -H 'Content-Type: application/json' \\
  -d '${JSON.stringify(body)}'`;
  const body = { model: "demo", prompt: "Once upon a time", max_tokens: 60 };
  console.log(`
completions-edge listens on http://127.0.0.1:${port} (Ctrl-C stops it).
Upstream: ${upstream}
Models: demo, and demo-chat (the same by way of the chat API). After \`make build\` it reloads by itself.

In another terminal:

${curl("", body)}

and streaming:

${curl("-N ", { ...body, stream: true })}
`);
}

await command(async () => {
  const port = portArgument("PORT", 8787);
  const upstreamPort = portArgument("UPSTREAM_PORT", 8788);
  await demandFree("PORT", port);
  const own = await ownUpstream();
  if (!own) await demandFree("UPSTREAM_PORT", upstreamPort);

  const { demoUpstreamKey, adminToken } = writeSecrets({ upstreamKey: own?.key ?? null });
  const baseUrl = own?.baseUrl ?? `http://127.0.0.1:${upstreamPort}/v1`;

  if (!own) await startDemoUpstream(upstreamPort, demoUpstreamKey);
  say("starting the Worker …");
  const worker = await startWorker(port);
  const key = await seed({
    admin: adminAt(`http://127.0.0.1:${port}`, adminToken),
    config: configFor({ baseUrl, model: own?.model, own }),
    mustApply: Boolean(own) || upstreamPort !== 8788,
  });
  welcome({ port, key, upstream: own ? `${baseUrl}, model ${own.model}` : `the demo upstream on ${baseUrl}, which writes a scripted text` });
  throw refuse(await worker.ended);
});
