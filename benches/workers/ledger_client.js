// Calls one object, twice for each request, and nothing else: /ledger reserves and settles at the Worker's own ledger, in
// the JSON of src/quota/call.rs; /empty sends the same two texts to an object that does nothing. As in the Worker nobody
// waits for the settlement; one that goes wrong makes all answers after it wrong ones.
import { DurableObject } from "cloudflare:workers";

const LIMIT = 1_000_000_000;
const LIMITS = {
  requests_per_minute: LIMIT,
  tokens_per_minute: LIMIT,
  requests_per_day: LIMIT,
  tokens_per_day: LIMIT,
  tokens_per_month: LIMIT,
  concurrent_requests: LIMIT,
};

let count = 0;
let wrong = "";

export class EmptyObject extends DurableObject {
  ask(call) {
    return "";
  }
}

export default {
  async fetch(request, env, ctx) {
    const isLedger = new URL(request.url).pathname === "/ledger";
    const namespace = isLedger ? env.LEDGER : env.EMPTY;
    const object = namespace.get(namespace.idFromName("bench"));
    const ask = async (call, right) => {
      const reply = await object.ask(JSON.stringify(call));
      if (isLedger ? !reply.startsWith(right) : reply !== "") wrong = reply || "nothing";
    };
    const lease = `cmpl-${(count += 1)}`;
    const reserve = { lease, key: "bench", model: "one", prompt_tokens: 5, completion_tokens: 256, tenant_limits: LIMITS, key_limits: {}, lease_ms: 300_000 };
    await ask({ reserve }, '{"decided":{"refusal":null,');
    const settle = { lease, prompt_tokens: 6, completion_tokens: 200, estimated: false, failed: false };
    ctx.waitUntil(ask({ settle }, '"done"').catch((error) => (wrong = String(error))));
    return new Response(wrong ? `wrong: ${wrong}` : "settled");
  },
};
