// The demo upstream: a small OpenAI-compatible server for development and tests. It is not part of the Worker, and
// there is no model in it: its one model, `demo-scripted-1`, writes a scripted text that says so.
//
// From a shell:   node demo/upstream.mjs [--port 8788] [--pace-ms 25] [--key KEY]
// As a module:    createDemoUpstream({key, paceMs, reply}) gives an http.Server; `server.requests` is its log.
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { answer } from "./answer.mjs";
import { ApiError, badRequest } from "./errors.mjs";
import { readChat, readCompletion } from "./request.mjs";
import { scriptOf } from "./script.mjs";
import { sendStream } from "./stream.mjs";
import { chatWire, completionWire } from "./wire.mjs";

export const MODEL = "demo-scripted-1";
const MAX_BODY_BYTES = 16 * 1024 * 1024;
const MAX_LOG = 1000;

const ROUTES = {
  "/v1/completions": { read: readCompletion, wire: completionWire, prefix: "cmpl-" },
  "/v1/chat/completions": { read: readChat, wire: chatWire, prefix: "chatcmpl-" },
};

/// `key`: demanded as bearer key, if given. `paceMs`: between two chunks of a stream. `reply(entry)`: may return a
/// script (see script.mjs) for the request that the log entry describes.
export function createDemoUpstream({ key = null, paceMs = 25, reply = () => ({}) } = {}) {
  const requests = [];
  const server = createServer((req, res) => {
    const entry = { method: req.method, path: req.url, headers: req.headers, body: null, chunks: 0, ended: null };
    requests.push(entry);
    if (requests.length > MAX_LOG) requests.shift();
    handle(req, res, entry, { key, paceMs, reply })
      .then((ended) => { entry.ended = ended; })
      .catch((error) => {
        entry.ended = "error";
        const known = error instanceof ApiError;
        if (!known) console.error(error);
        if (res.headersSent) return res.destroy();
        sendJson(res, known ? error.status : 500, known ? error.body : new ApiError(500, "The demo upstream failed.", { type: "server_error" }).body);
      })
      .finally(() => { entry.status = res.statusCode; });
  });
  server.requests = requests;
  return server;
}

async function handle(req, res, entry, { key, paceMs, reply }) {
  const { pathname } = new URL(req.url, "http://demo");
  if (key !== null && req.headers.authorization !== `Bearer ${key}`) {
    throw new ApiError(401, "Incorrect API key provided.", { code: "invalid_api_key" });
  }
  if (req.method === "GET" && pathname === "/v1/models") return sendJson(res, 200, { object: "list", data: [modelObject] });
  if (req.method === "GET" && pathname === `/v1/models/${MODEL}`) return sendJson(res, 200, modelObject);
  const route = ROUTES[pathname];
  if (req.method !== "POST" || !route) throw new ApiError(404, `Invalid URL (${req.method} ${pathname})`, { code: "unknown_url" });

  entry.body = await readJson(req);
  const script = scriptOf(req.headers["x-demo-script"], await reply(entry));
  if (script.delay_ms) await pause(script.delay_ms);
  if (script.status && script.status !== 200) {
    return sendJson(res, script.status, { error: script.error ?? { message: "scripted", type: "api_error", param: null, code: null } }, script.headers);
  }
  if (entry.body.model === undefined) throw badRequest("you must provide a model parameter");
  if (entry.body.model !== MODEL) {
    throw new ApiError(404, `The model \`${entry.body.model}\` does not exist or you do not have access to it.`, { param: "model", code: "model_not_found" });
  }
  const request = route.read(entry.body);
  const wire = route.wire(request, { id: route.prefix + randomBytes(12).toString("hex"), created: Math.floor(Date.now() / 1000) });
  const whole = answer(request, script.text ?? null);
  if (!request.stream) return sendJson(res, 200, wire.whole(whole), script.headers);
  return sendStream(res, wire, whole, {
    includeUsage: request.includeUsage,
    paceMs: script.pace_ms ?? paceMs,
    script,
    onChunk: (count) => { entry.chunks = count; },
  });
}

const modelObject = { id: MODEL, object: "model", created: 1767225600, owned_by: "completions-edge-demo" };

function sendJson(res, status, body, headers = {}) {
  res.writeHead(status, { "content-type": "application/json", ...headers });
  res.end(JSON.stringify(body));
  return "done";
}

async function readJson(req) {
  const parts = [];
  let size = 0;
  for await (const part of req) {
    size += part.length;
    if (size > MAX_BODY_BYTES) throw new ApiError(413, "The request body is too large.");
    parts.push(part);
  }
  let body;
  try {
    body = JSON.parse(Buffer.concat(parts).toString());
  } catch {
    throw badRequest("We could not parse the JSON body of your request.");
  }
  if (body === null || typeof body !== "object" || Array.isArray(body)) throw badRequest("The request body must be a JSON object.");
  return body;
}

function main() {
  const { values } = parseArgs({
    options: { port: { type: "string", default: "8788" }, "pace-ms": { type: "string", default: "25" }, key: { type: "string" } },
  });
  const server = createDemoUpstream({ key: values.key ?? null, paceMs: Number(values["pace-ms"]) });
  server.once("error", (error) => {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  });
  server.listen(Number(values.port), "127.0.0.1", () => {
    console.log(`demo upstream (model ${MODEL}) on http://127.0.0.1:${server.address().port}/v1`);
  });
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => {
      server.close();
      server.closeAllConnections();
    });
  }
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) main();
