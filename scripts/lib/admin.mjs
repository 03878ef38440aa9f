// The Worker's admin API: of the local Worker that `make dev` runs, or of a deployed one that URL= and ADMIN_TOKEN=
// name. An error of the API is a message to the person at the keyboard.
import { devAdminToken } from "./dev-secrets.mjs";
import { portArgument } from "./ports.mjs";
import { refuse } from "./step.mjs";

const LOCAL = /^(127\.0\.0\.1|localhost|\[::1\])$/;
const TIMEOUT_MS = 60_000;

/// The API that the environment names.
export function openAdmin() {
  const url = process.env.URL?.trim();
  if (!url) return adminAt(`http://127.0.0.1:${portArgument("PORT", 8787)}`, devAdminToken());
  if (!process.env.ADMIN_TOKEN) throw refuse("ADMIN_TOKEN is missing: the secret of the Worker at URL (wrangler secret put ADMIN_TOKEN)");
  return adminAt(url, process.env.ADMIN_TOKEN);
}

/// The API of the Worker at `base`. `call` gives `{status, etag, body}`; `allow` lists errors that the caller expects.
export function adminAt(base, token) {
  const url = URL.canParse(base) ? new URL(base) : null;
  if (!url || !/^https?:$/.test(url.protocol)) throw refuse(`URL must be one such as https://completions-edge.example.workers.dev; it is "${base}"`);
  const local = LOCAL.test(url.hostname);
  // The token opens everything: it does not travel in the clear.
  if (!local && url.protocol !== "https:") throw refuse("URL must begin with https://");
  if (!token) throw refuse("there is no ADMIN_TOKEN in .dev.vars: `make dev` makes one. A deployed Worker wants URL= and ADMIN_TOKEN=");

  async function call(method, path, body, { allow = [], ifMatch } = {}) {
    const headers = { authorization: `Bearer ${token}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (ifMatch) headers["if-match"] = ifMatch;
    let response, text;
    try {
      response = await fetch(new URL(`/admin/v1/${path}`, url), {
        method, headers, body: typeof body === "object" ? JSON.stringify(body) : body, redirect: "error", signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      text = await response.text();
    } catch (error) {
      const why = error.cause?.code ?? error.message;
      if (local) throw refuse(`no Worker answers on ${url.origin} (${why}). Start it in another terminal: make dev. A deployed one wants URL= and ADMIN_TOKEN=`);
      throw refuse(`${url.origin} does not answer (${why})`);
    }
    const { status } = response;
    let json = null;
    try {
      json = text === "" ? null : JSON.parse(text);
    } catch {
      throw refuse(`${url.origin} is no completions-edge: it answered ${status} and no JSON`);
    }
    const { code, message } = json?.error ?? {};
    if (code === "unknown_url") throw refuse(`the Worker at ${url.origin} has no admin API. It needs the secret ADMIN_TOKEN, of at least 16 characters.`);
    if (status === 401) throw refuse(`the Worker at ${url.origin} does not take this ADMIN_TOKEN`);
    if (status >= 400 && !allow.includes(status)) throw refuse(message ?? `${method} ${path}: status ${status}`);
    return { status, etag: response.headers.get("etag"), body: json };
  }

  /// Every record of a list, page by page.
  async function* all(path) {
    for (let cursor = null; ; ) {
      const { body } = await call("GET", `${path}?limit=100${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
      yield* body.data;
      cursor = body.next_cursor;
      if (!cursor) return;
    }
  }

  return { call, all, origin: url.origin };
}
