// What a test or a developer may tell the demo upstream to do instead of answering well: as the value of
// `options.reply(request)` or as JSON in the request header `x-demo-script`.
import { badRequest } from "./errors.mjs";

const FIELDS = {
  status: "number", // answer with this status and `error`
  error: "object", // the error object; with no status, it is sent in the stream after `error_after_chunks`
  error_after_chunks: "number",
  headers: "object", // more response headers, such as retry-after
  delay_ms: "number", // before the response's head
  pace_ms: "number", // between two chunks
  close_after_chunks: "number", // break the connection after so many chunks
  text: "string", // written in place of the story
};

export function scriptOf(header, reply = {}) {
  let fromHeader = {};
  if (header !== undefined) {
    try {
      fromHeader = JSON.parse(header);
    } catch {
      throw badRequest("x-demo-script is not JSON.");
    }
  }
  const script = { ...reply, ...fromHeader };
  for (const [name, value] of Object.entries(script)) {
    if (typeof value !== FIELDS[name]) throw badRequest(`x-demo-script: '${name}' is unknown or of the wrong type.`);
  }
  return script;
}
