// The operator's API, with its records in real ledger objects and real KV, beside requests that read them.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import OpenAI from "openai";
import { startAdmin } from "./harness/admin.mjs";
import { ADMIN_TOKEN, completionCall, startGateway } from "./harness/gateway.mjs";
import { HAIKU, HAIKU_MODELS } from "./harness/haiku.mjs";
import { send } from "./harness/http_client.mjs";
import { makeTenant } from "./harness/records.mjs";
import { USAGE } from "./harness/scripts.mjs";
import { assertErrorShape } from "./harness/sse.mjs";
import { eventually, untilTheDayHasTime } from "./harness/wait.mjs";
import { startWorker } from "./harness/worker.mjs";

const MODEL = "babbage-002";
const UNKNOWN_URL = [404, "unknown_url"];
const NO_RECORD = [404, "not_found"];
const CONFLICT = [409, "conflict"];
const STALE = [412, "precondition_failed"];
const HOUR = 3600;

const sha256 = (text) => createHash("sha256").update(text).digest("hex");
const versionOf = ({ headers }) => Number(headers.etag.match(/^"(\d+)"$/)[1]);
const manyAtOnce = (count, make) => Promise.all(Array.from({ length: count }, (_, nth) => make(nth)));

test("without ADMIN_TOKEN the admin API does not exist", async () => {
  const worker = await startWorker({ config: { version: 1, upstreams: {}, models: {} }, tenants: { demo: makeTenant() } });
  try {
    for (const token of [null, "", ADMIN_TOKEN]) {
      const admin = startAdmin(worker, token);
      for (const [method, path] of [["GET", "tenants"], ["POST", "tenants"], ["GET", "tenants/demo"], ["PUT", "config"], ["GET", "nowhere"]]) {
        const { error } = await admin.refused(UNKNOWN_URL, method, path, method === "GET" ? undefined : {});
        assert.equal(error.message, `Invalid URL (${method} /admin/v1/${path})`);
      }
    }
    assert.deepEqual(Object.keys(await worker.kvContents()).sort(), ["config", "tenant:demo"]);
  } finally {
    await worker.stop();
  }
});

suite("admin", () => {
  let gateway;
  let admin;
  /** Every key that was issued, to be looked for where it must not be. */
  const issued = [];
  before(async () => {
    gateway = await startGateway({ scripts: HAIKU_MODELS });
    admin = startAdmin(gateway, ADMIN_TOKEN);
    await untilTheDayHasTime(90_000);
  });
  after(() => gateway?.stop());

  const newTenant = (id, fields = {}) => admin.must(201, "POST", "tenants", { id, ...fields });
  const noted = ({ json, headers }) => {
    issued.push(json.key);
    return { ...json, etag: headers.etag, location: headers.location };
  };
  const newKey = async (tenant, fields) => noted(await admin.must(201, "POST", `tenants/${tenant}/keys`, fields));
  const rotated = async ({ tenant, id }, fields) => noted(await admin.must(201, "POST", `tenants/${tenant}/keys/${id}/rotate`, fields));
  const complete = ({ key }) => send(gateway.port, completionCall(key, { model: MODEL, prompt: "abcd", max_tokens: 16 }));

  async function works(key) {
    const response = await complete(key);
    assert.equal(response.status, 200, await response.text());
    return response.headers;
  }
  async function isRefused(key, [status, code] = [401, "invalid_api_key"]) {
    const asked = gateway.upstream.requestsFor(MODEL).length;
    const response = await complete(key);
    const { error } = await response.json();
    assert.equal(response.status, status);
    assertErrorShape(error);
    assert.equal(error.code, code);
    assert.equal(gateway.upstream.requestsFor(MODEL).length, asked, "the upstream hears nothing of it");
  }
  const kv = async (name) => {
    const text = (await gateway.kvContents())[name];
    return text === undefined ? undefined : JSON.parse(text);
  };
  const copyOf = (key) => kv(`key:${key.hash}`);

  test("a wrong token, and none", async () => {
    const paths = ["tenants", "config", "nowhere"];
    for (const path of paths) {
      await startAdmin(gateway, "an-operator's-guess-0123456789").refused([401, "invalid_api_key"], "GET", path);
      await startAdmin(gateway, null).refused([401, null], "GET", path);
    }
    // A caller's key is no operator's token, and the other way round.
    await startAdmin(gateway, gateway.key).refused([401, "invalid_api_key"], "POST", "tenants", { id: "mine" });
    await isRefused({ key: ADMIN_TOKEN });
    assert.equal(await kv("tenant:mine"), undefined);
  });

  test("a tenant, its key, a completion with the official SDK, and its usage", async () => {
    const tenant = await newTenant("acme", { name: "Acme", limits: { requests_per_day: 1000, tokens_per_day: 6000 } });
    assert.deepEqual([tenant.headers.etag, tenant.headers.location], ['"1"', "/admin/v1/tenants/acme"]);
    const expected = { name: "Acme", status: "active", models: null, limits: { requests_per_day: 1000, tokens_per_day: 6000 } };
    assert.deepEqual(tenant.json, { object: "tenant", id: "acme", ...expected });
    assert.deepEqual(await kv("tenant:acme"), { version: 1, ...expected });

    const key = await newKey("acme", { name: "ci", limits: { requests_per_day: 50 } });
    assert.match(key.key, /^sk-[a-z0-9]{12}-[A-Za-z0-9]{43}$/);
    assert.equal(key.location, `/admin/v1/tenants/acme/keys/${key.id}`);
    assert.equal(key.hash, sha256(key.key));
    assert.equal((await copyOf(key)).tenant, "acme");

    const client = new OpenAI({ baseURL: gateway.baseURL, apiKey: key.key, maxRetries: 0 });
    const { data, response } = await client.completions.create({ model: MODEL, prompt: "abcd", max_tokens: 16 }).withResponse();
    assert.equal(data.choices[0].text, HAIKU);
    const rateHeader = (name) => response.headers.get(`x-ratelimit-${name}`);
    // The key's own limit of requests is the tighter one; for tokens there is the tenant's alone: 1 + 16 of it.
    assert.deepEqual([rateHeader("limit-requests"), rateHeader("remaining-requests")], ["50", "49"]);
    assert.deepEqual([rateHeader("limit-tokens"), rateHeader("remaining-tokens")], ["6000", "5983"]);

    const row = await eventually("the request to be in the usage", async () => {
      const { json } = await admin.must(200, "GET", "tenants/acme/usage?group_by=day,model,key");
      return json.data[0];
    });
    const { prompt_tokens, completion_tokens } = USAGE;
    const counts = { requests: 1, prompt_tokens, completion_tokens, estimated: 0, refused: 0, errors: 0 };
    const day = new Date().toISOString().slice(0, 10);
    assert.deepEqual(row, { day, model: MODEL, key: key.id, ...counts });
    for (const [query, group] of [["", { day }], ["?group_by=model", { model: MODEL }], [`?group_by=key&from=${day}&to=${day}`, { key: key.id }]]) {
      const { json } = await admin.must(200, "GET", `tenants/acme/usage${query}`);
      assert.deepEqual(json, { object: "list", data: [{ ...group, ...counts }], next_cursor: null });
    }
    const { json: before } = await admin.must(200, "GET", "tenants/acme/usage?from=2020-01-01&to=2020-12-31");
    assert.deepEqual(before.data, []);
  });

  test("limits are patched by whoever has seen the newest record", async () => {
    const { headers } = await newTenant("patched", { name: "P", limits: { requests_per_day: 5, tokens_per_day: 6000 } });
    const key = await newKey("patched");
    assert.equal((await works(key))["x-ratelimit-limit-requests"], "5");

    const first = await admin.must(200, "PATCH", "tenants/patched", { limits: { requests_per_day: 20 } }, { "if-match": headers.etag });
    assert.equal(first.headers.etag, '"2"');
    assert.deepEqual([first.json.name, first.json.limits], ["P", { requests_per_day: 20, tokens_per_day: 6000 }]);
    for (const [method, body] of [["PATCH", { limits: null }], ["PUT", { name: "Q" }], ["DELETE", undefined]]) {
      const { error } = await admin.refused(STALE, method, "tenants/patched", body, { "if-match": headers.etag });
      assert.match(error.message, /its ETag is "2"/);
    }
    await admin.refused(STALE, "PUT", "tenants/patched", { name: "Q" }, { "if-none-match": "*" });
    const shown = await admin.must(200, "GET", "tenants/patched");
    assert.deepEqual([shown.headers.etag, shown.json], ['"2"', first.json]);
    assert.deepEqual((await kv("tenant:patched")).limits, first.json.limits);

    // An isolate that remembers nothing reads the new limits; what was used of the old ones is not forgotten.
    await gateway.restart();
    const now = await works(key);
    assert.deepEqual([now["x-ratelimit-limit-requests"], now["x-ratelimit-remaining-requests"]], ["20", "18"]);
  });

  test("pitfall 34: a revoked key is refused at once, though the isolate remembers it, and KV too", async () => {
    await newTenant("revoking");
    const [key, other] = [await newKey("revoking"), await newKey("revoking")];
    await works(key);
    const active = await copyOf(key);
    await admin.must(204, "DELETE", `tenants/revoking/keys/${key.id}`);
    await isRefused(key);
    assert.deepEqual(await copyOf(key), { ...active, status: "revoked" });
    await works(other);

    // A place of the world that KV has not reached yet still reads what was there.
    await gateway.put(`key:${key.hash}`, active);
    await gateway.restart();
    await isRefused(key);

    await admin.must(204, "DELETE", `tenants/revoking/keys/${key.id}`);
    assert.equal((await copyOf(key)).status, "revoked");
    const { json } = await admin.must(200, "GET", `tenants/revoking/keys/${key.id}`);
    assert.equal(json.status, "revoked");
    await admin.refused([400, null], "PATCH", `tenants/revoking/keys/${key.id}`, { status: "active" });
    await admin.refused(CONFLICT, "POST", `tenants/revoking/keys/${key.id}/rotate`);
  });

  test("pitfall 34: of a hundred requests that race with a revocation, none after its answer is served", async () => {
    await newTenant("racing");
    const key = await newKey("racing");
    await works(key);
    let revoked = false;
    const outcomes = [];
    const asking = manyAtOnce(10, async () => {
      for (let nth = 0; nth < 10; nth += 1) {
        const sentAfter = revoked;
        const response = await complete(key);
        await response.bytes();
        outcomes.push({ sentAfter, status: response.status });
      }
    });
    await admin.must(204, "DELETE", `tenants/racing/keys/${key.id}`);
    revoked = true;
    await asking;
    await isRefused(key);
    for (const { sentAfter, status } of outcomes) {
      if (sentAfter) assert.equal(status, 401);
      else assert.ok([200, 401].includes(status), String(status));
    }
  });

  test("a rotated key goes on for its grace, and not at all without one", async () => {
    await newTenant("rotating");
    const settings = { name: "ci", models: [MODEL], limits: { requests_per_day: 100 } };
    const old = await newKey("rotating", settings);
    await works(old);
    const began = Math.floor(Date.now() / 1000);
    const successor = await rotated(old, { grace_seconds: HOUR });
    assert.notEqual(successor.id, old.id);
    assert.deepEqual([successor.name, successor.models, successor.limits, successor.expires_at], [...Object.values(settings), null]);
    const { expires_at } = await copyOf(old);
    assert.ok(expires_at >= began + HOUR && expires_at <= Date.now() / 1000 + HOUR, String(expires_at));
    for (const key of [old, successor]) await works(key);

    const last = await rotated(successor, { grace_seconds: 0 });
    await isRefused(successor);
    for (const key of [old, last]) await works(key);
    await rotated(old, { grace_seconds: 0 });
    await isRefused(old);
    await admin.refused([400, "integer_above_max_value"], "POST", `tenants/rotating/keys/${last.id}/rotate`, { grace_seconds: 10 ** 9 });

    await gateway.restart();
    for (const key of [old, successor]) await isRefused(key);
    await works(last);
  });

  test("a key's end, changed to one that has passed", async () => {
    await newTenant("ending");
    const key = await newKey("ending", { expires_at: Math.floor(Date.now() / 1000) + HOUR });
    const path = `tenants/ending/keys/${key.id}`;
    await admin.refused(STALE, "PATCH", path, { name: "x" }, { "if-match": '"9"' });
    const { json, headers } = await admin.must(200, "PATCH", path, { expires_at: 1 }, { "if-match": key.etag });
    assert.deepEqual([json.expires_at, headers.etag], [1, '"2"']);
    await isRefused(key);
  });

  test("a tenant that is suspended, and one that is active again", async () => {
    await newTenant("suspended");
    const key = await newKey("suspended");
    await admin.must(200, "PATCH", "tenants/suspended", { status: "suspended" });
    await gateway.restart();
    await isRefused(key, [403, "account_suspended"]);
    await admin.must(200, "PATCH", "tenants/suspended", { status: "active" });
    await gateway.restart();
    await works(key);
  });

  test("a tenant that is deleted takes its keys with it, for good", async () => {
    await newTenant("deleted");
    const keys = [await newKey("deleted"), await newKey("deleted")];
    for (const key of keys) await works(key);
    await admin.must(204, "DELETE", "tenants/deleted");
    for (const key of keys) await isRefused(key);
    assert.equal(await kv("tenant:deleted"), undefined);
    for (const key of keys) assert.equal((await copyOf(key)).status, "revoked");
    await admin.must(204, "DELETE", "tenants/deleted");
    for (const path of ["tenants/deleted", "tenants/deleted/keys"]) await admin.refused(NO_RECORD, "GET", path);
    await admin.refused(NO_RECORD, "PATCH", "tenants/deleted", { name: "x" });
    await admin.refused(NO_RECORD, "POST", "tenants/deleted/keys");
    // What it has used is still to be paid.
    const { json } = await admin.must(200, "GET", "tenants/deleted/usage");
    assert.equal(json.data[0].requests, 2);

    const again = await newTenant("deleted");
    assert.ok(versionOf(again) > 1, "a version is not given twice");
    await gateway.restart();
    for (const key of keys) await isRefused(key);
    await works(await newKey("deleted"));
  });

  test("a broken configuration is refused with its reason, and the running one stays", async () => {
    const { json: config, headers } = await admin.must(200, "GET", "config");
    assert.deepEqual(config, await kv("config"));
    const target = [{ upstream: "nowhere", model: MODEL }];
    const broken = {
      "an upstream that is not there": [{ ...config, models: { ...config.models, lost: { targets: target } } }, /nowhere/],
      "a misspelt field": [{ ...config, modles: {} }, /modles/],
      "no JSON": ["{", /./],
    };
    for (const [name, [document, reason]] of Object.entries(broken)) {
      for (const [method, path] of [["PUT", "config"], ["POST", "config/check"]]) {
        const { error } = await admin.refused([400, null], method, path, document);
        assert.match(error.message, reason, name);
      }
    }
    const shown = await admin.must(200, "GET", "config");
    assert.deepEqual([shown.json, shown.headers.etag], [config, headers.etag]);
    assert.deepEqual(await kv("config"), config);
    const caller = { key: gateway.key };
    await works(caller);

    const better = { ...config, models: { ...config.models, renamed: { ...config.models[MODEL] } } };
    const checked = await admin.must(200, "POST", "config/check", better);
    assert.deepEqual(checked.json, { valid: true });
    assert.deepEqual(await kv("config"), config, "a check stores nothing");
    await admin.refused(STALE, "PUT", "config", better, { "if-match": '"99"' });
    const put = await admin.must(200, "PUT", "config", better, { "if-match": headers.etag });
    assert.equal(versionOf(put), versionOf({ headers }) + 1);
    await gateway.restart();
    await works(caller);
    const models = await (await gateway.get("/v1/models")).json();
    assert.ok(models.data.some(({ id }) => id === "renamed"));
  });

  test("twenty writers at once: every change counts once, and KV ends with the newest", async () => {
    const created = await newTenant("contested");
    const answers = await manyAtOnce(20, async (nth) => {
      const answer = await admin.ask("PATCH", "tenants/contested", { name: `writer ${nth}` });
      return { ...answer, at: Date.now() };
    });
    const done = answers.filter(({ status }) => status === 200);
    for (const { status, json } of answers) {
      assert.ok(status === 200 || (status === 409 && json.error.code === "conflict"), JSON.stringify(json));
    }
    const versions = done.map(versionOf).sort((a, b) => a - b);
    const first = versionOf(created) + 1;
    // Whoever gives up has lost ten times, each time to somebody who has won.
    assert.ok(done.length >= 10, `${done.length} of 20`);
    assert.deepEqual(versions, done.map((_, nth) => first + nth), "every change has a version of its own, and none is missing");
    const newest = done.find((answer) => versionOf(answer) === versions.at(-1));
    const shown = await admin.must(200, "GET", "tenants/contested");
    assert.deepEqual([shown.headers.etag, shown.json], [newest.headers.etag, newest.json]);
    assert.equal((await kv("tenant:contested")).name, newest.json.name);
    // KV takes one write a second of a name. Each writer is answered after its own, and so not all at the end.
    const times = done.map(({ at }) => at).sort((a, b) => a - b);
    assert.ok(times.at(-1) - times[0] >= (done.length - 3) * 1000, `answered at ${times.map((at) => at - times[0])} ms`);
  });

  test("twenty writers who have all seen the same record: one wins", async () => {
    const { headers } = await newTenant("raced");
    const answers = await manyAtOnce(20, (nth) => admin.ask("PATCH", "tenants/raced", { name: `writer ${nth}` }, { "if-match": headers.etag }));
    const [winner, ...others] = answers.sort((a, b) => a.status - b.status);
    assert.equal(winner.status, 200, winner.text);
    for (const { status, text } of others) assert.equal(status, 412, text);
    assert.equal((await kv("tenant:raced")).name, winner.json.name);
  });

  test("twenty who make the same tenant at once: one does", async () => {
    const answers = await manyAtOnce(20, (nth) => admin.ask("POST", "tenants", { id: "made-once", name: `maker ${nth}` }));
    const [winner, ...others] = answers.sort((a, b) => a.status - b.status);
    assert.equal(winner.status, 201, winner.text);
    for (const { status, text } of others) assert.equal(status, 409, text);
    assert.equal((await kv("tenant:made-once")).name, winner.json.name);
  });

  test("lists come a page at a time, and whole", async () => {
    await newTenant("listed");
    const keys = await manyAtOnce(5, () => newKey("listed"));
    const { records: listed, pages } = await admin.all("tenants/listed/keys", 2);
    assert.equal(pages, 3);
    assert.deepEqual(listed.map(({ id }) => id), keys.map(({ id }) => id).sort());
    assert.ok(listed.every((key) => !("key" in key)));

    const { records: tenants } = await admin.all("tenants", 3);
    const names = Object.keys(await gateway.kvContents()).filter((name) => name.startsWith("tenant:"));
    assert.deepEqual(tenants.map(({ id }) => `tenant:${id}`), names.sort());
    assert.ok(tenants.length > 3 && tenants.some(({ id }) => id === "demo"));
    for (const limit of ["0", "101", "x"]) await admin.refused([400, null], "GET", `tenants?limit=${limit}`);
  });

  test("records that were written into KV by hand are taken over", async () => {
    const path = `tenants/demo/keys/${sha256(gateway.key)}`;
    await works({ key: gateway.key });
    const { json } = await admin.must(200, "GET", path);
    assert.deepEqual([json.tenant, json.name], ["demo", "a test's key"]);
    await admin.must(204, "DELETE", path);
    await isRefused({ key: gateway.key });
    assert.equal((await copyOf(json)).status, "revoked");
  });

  const ERRORS = {
    "a path that leads nowhere": [[404, "unknown_url"], null, "GET", "nowhere"],
    "a method that a path does not have": [[405, "method_not_supported"], null, "DELETE", "tenants"],
    "a tenant that does not exist": [NO_RECORD, null, "GET", "tenants/nobody"],
    "a tenant with an id that none can have": [NO_RECORD, null, "GET", "tenants/@config"],
    "a tenant that exists": [CONFLICT, "id", "POST", "tenants", { id: "demo" }],
    "a tenant without an id": [[400, "missing_required_parameter"], "id", "POST", "tenants", {}],
    "a limit of another type": [[400, "invalid_type"], "limits", "POST", "tenants", { id: "x", limits: { requests_per_day: "many" } }],
    "a misspelt limit": [[400, null], null, "POST", "tenants", { id: "x", limits: { request_per_day: 1 } }],
    "a misspelt field": [[400, null], null, "PATCH", "tenants/demo", { nmae: "x" }],
    "no JSON": [[400, null], null, "PATCH", "tenants/demo", "{"],
    "no object": [[400, "invalid_type"], null, "PATCH", "tenants/demo", "[]"],
    "a body that is too long": [[413, "request_too_large"], null, "PATCH", "tenants/demo", `{"name":"${"x".repeat(1 << 20)}"}`],
    "a body that is not said to be JSON": [[415, "unsupported_media_type"], null, "PATCH", "tenants/demo", "{}", { "content-type": "text/plain" }],
    "a group that there is not": [[400, null], "group_by", "GET", "tenants/demo/usage?group_by=week"],
    "a key that does not exist": [NO_RECORD, null, "DELETE", "tenants/demo/keys/nokey"],
  };
  for (const [name, [expected, param, ...request]] of Object.entries(ERRORS)) {
    test(`an error with all four keys: ${name}`, async () => {
      const { error, headers } = await admin.refused(expected, ...request);
      assert.equal(error.param, param);
      assert.equal(headers["cache-control"], "no-store");
    });
  }

  test("a key's secret is in the one answer that gave it out, and nowhere else", async () => {
    assert.ok(issued.length > 10 && new Set(issued).size === issued.length);
    const contents = JSON.stringify(await gateway.kvContents());
    // Stopped, the runtime has written down all that it ever will; what is left is for `after` to remove.
    await gateway.kill();
    const files = readdirSync(gateway.storage, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    const disk = Buffer.concat(files.map((file) => readFileSync(join(file.parentPath, file.name)))).toString("latin1");
    assert.ok(disk.includes(sha256(issued[0])), "the disk is what is looked at");
    for (const key of issued) {
      const secret = key.split("-")[2];
      assert.equal(admin.answers.filter((text) => text.includes(secret)).length, 1);
      assert.ok(!contents.includes(secret), "KV has a secret");
      assert.ok(!disk.includes(secret), "the disk has a secret");
    }
  });
});
