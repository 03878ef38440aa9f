// Who may call: keys, tenants, and the models that each may use.
import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { startGateway } from "./harness/gateway.mjs";
import { send } from "./harness/http_client.mjs";
import { makeKey, makeTenant } from "./harness/records.mjs";
import { answer, completion } from "./harness/scripts.mjs";

const NO_KEY = [401, null, null, /^You didn't provide an API key\./];
const INVALID_KEY = [401, null, "invalid_api_key", /^Incorrect API key provided/];
const NOT_FOUND = (model) => [404, "model", "model_not_found", `The model \`${model}\` does not exist or you do not have access to it.`];
const NOW = Math.floor(Date.now() / 1000);

suite("access", () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      scripts: { demo: answer(200, completion("ok")), other: answer(200, completion("ok")) },
      tenants: {
        suspended: makeTenant({ status: "suspended" }),
        narrow: makeTenant({ models: ["demo"] }),
      },
    });
  });
  after(() => gateway?.stop());

  const complete = (authorization, model = "demo") =>
    send(gateway.port, {
      method: "POST",
      path: "/v1/completions",
      headers: { "content-type": "application/json", ...(authorization !== undefined && { authorization }) },
      body: JSON.stringify({ model, prompt: "p" }),
    });

  async function refused(response, [status, param, code, message]) {
    const { error } = await response.json();
    assert.equal(response.status, status);
    assert.match(response.headers["content-type"], /^application\/json/);
    assert.match(response.headers["x-request-id"], /^req_[0-9a-f]+$/);
    assert.deepEqual(Object.keys(error).sort(), ["code", "message", "param", "type"]);
    assert.deepEqual([error.type, error.param, error.code], ["invalid_request_error", param, code]);
    if (typeof message === "string") assert.equal(error.message, message);
    else assert.match(error.message, message);
  }

  const valid = makeKey().text;
  const HEADERS = {
    "no header": [undefined, NO_KEY],
    "an empty header": ["", NO_KEY],
    "another scheme": ["Basic dXNlcjpwYXNz", NO_KEY],
    "a scheme alone": ["Bearer", NO_KEY],
    "an unknown key of the right shape": [`Bearer ${valid}`, INVALID_KEY],
    "a key of another shape": ["Bearer hunter2", INVALID_KEY],
    "a key with a path in it": ["Bearer sk-../../config-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", INVALID_KEY],
    "a very long key": [`Bearer sk-${"a".repeat(4000)}`, INVALID_KEY],
  };
  for (const [name, [authorization, expected]] of Object.entries(HEADERS)) {
    test(`refused: ${name}`, async () => refused(await complete(authorization), expected));
  }

  test("a refusal does not repeat the key", async () => {
    const text = await (await complete(`Bearer ${valid}`)).text();
    assert.ok(!text.includes(valid) && !text.includes(valid.slice(-8)));
  });

  const KEYS = {
    "revoked": [{ status: "revoked" }, "demo", INVALID_KEY],
    "expired": [{ expires_at: NOW - 1 }, "demo", INVALID_KEY],
    "not yet expired": [{ expires_at: NOW + 3600 }, "demo", 200],
    "of a suspended tenant": [{ tenant: "suspended" }, "demo", [403, null, "account_suspended", /./]],
    "of a tenant without a record": [{ tenant: "nobody" }, "demo", INVALID_KEY],
    "with a list, a model on it": [{ models: ["demo"] }, "demo", 200],
    "with a list, a model not on it": [{ models: ["demo"] }, "other", NOT_FOUND("other")],
    "with an empty list": [{ models: [] }, "demo", NOT_FOUND("demo")],
    "of a tenant with a list, a model on it": [{ tenant: "narrow" }, "demo", 200],
    "of a tenant with a list, a model not on it": [{ tenant: "narrow" }, "other", NOT_FOUND("other")],
    "with a wider list than its tenant's": [{ tenant: "narrow", models: ["demo", "other"] }, "other", NOT_FOUND("other")],
    "for any model, an unknown one": [{}, "nope", NOT_FOUND("nope")],
  };
  for (const [name, [fields, model, expected]] of Object.entries(KEYS)) {
    test(`a key ${name}`, async () => {
      const response = await complete(`Bearer ${await gateway.addKey(fields)}`, model);
      if (expected === 200) assert.equal(response.status, 200, await response.text());
      else await refused(response, expected);
    });
  }

  test("the scheme's case does not matter", async () => {
    const response = await complete(`bearer ${gateway.key}`);
    assert.equal(response.status, 200, await response.text());
  });

  test("the record's own name, a hash, is no key", async () => {
    const { kvName } = makeKey();
    await refused(await complete(`Bearer ${kvName.slice("key:".length)}`), INVALID_KEY);
  });

  test("GET /v1/models wants a key too", async () => {
    await refused(await send(gateway.port, { path: "/v1/models" }), NO_KEY);
    await refused(await send(gateway.port, { path: "/v1/models", headers: { authorization: `Bearer ${valid}` } }), INVALID_KEY);
  });

  test("a refused call never reaches an upstream", () => {
    // No key above may use this model, though every one of them asked for it in vain.
    assert.equal(gateway.upstream.requestsFor("other").length, 0);
  });
});
