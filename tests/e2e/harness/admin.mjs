// An operator's client of /admin/v1: what holds for every answer is asserted here, once.
import assert from "node:assert/strict";
import { send } from "./http_client.mjs";
import { assertErrorShape } from "./sse.mjs";

// Writers of one record wait for KV, which takes one write a second: twenty of them take their time.
const LIMIT_MS = 60_000;

/** The admin API of a Worker, to whoever has this token; `null` asks without one. */
export function startAdmin(worker, token) {
  const answers = [];

  /** `body` goes out as JSON, or as it stands if it is text. Answers status, headers, text, and the JSON if there is any. */
  async function ask(method, path, body, headers = {}) {
    const response = await send(worker.port, {
      method,
      path: `/admin/v1/${path}`,
      headers: {
        ...(token !== null && { authorization: `Bearer ${token}` }),
        ...(body !== undefined && { "content-type": "application/json" }),
        ...headers,
      },
      body: body === undefined || typeof body === "string" ? body : JSON.stringify(body),
      limitMs: LIMIT_MS,
    });
    const text = await response.text();
    answers.push(text);
    assert.match(response.headers["x-request-id"], /^req_[0-9a-f]+$/, `${method} ${path}`);
    const answer = { status: response.status, headers: response.headers, text, json: undefined };
    if (response.status === 204) {
      assert.equal(text, "");
      return answer;
    }
    assert.equal(response.headers["content-type"], "application/json", `${method} ${path}`);
    answer.json = JSON.parse(text);
    if (response.status >= 400) {
      assert.deepEqual(Object.keys(answer.json), ["error"]);
      assertErrorShape(answer.json.error);
    }
    return answer;
  }

  /** Asks for what has to succeed with this status. */
  async function must(status, ...request) {
    const answer = await ask(...request);
    assert.equal(answer.status, status, `${request[0]} ${request[1]}: ${answer.text}`);
    assert.equal(answer.headers["cache-control"], "no-store");
    return answer;
  }

  return {
    /** The text of every answer so far. */
    answers,
    ask,
    must,
    /** Asks for what has to fail with this status and code. */
    async refused([status, code], ...request) {
      const { json, ...answer } = await ask(...request);
      assert.deepEqual([answer.status, json?.error?.code], [status, code], `${request[0]} ${request[1]}: ${answer.text}`);
      return { ...answer, error: json.error };
    },
    /** Every record of a list, a page of `limit` at a time, and how many pages it were. */
    async all(path, limit) {
      const [records, seen] = [[], new Set()];
      for (let cursor = null; ; ) {
        const after = cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`;
        const { json } = await must(200, "GET", `${path}?limit=${limit}${after}`);
        assert.equal(json.object, "list");
        assert.ok(json.data.length <= limit);
        records.push(...json.data);
        cursor = json.next_cursor;
        if (cursor === null) return { records, pages: seen.size + 1 };
        assert.ok(!seen.has(cursor), "a cursor leads on");
        seen.add(cursor);
      }
    },
  };
}
