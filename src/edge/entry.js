// The Worker's modules as the runtime wants them: a handler for requests, and the class of the ledger objects.
import { DurableObject } from "cloudflare:workers";
import { LedgerObject as Ledger, __wbg_reset_state as renew, fetch as answer } from "../../target/worker/index.js";
import { guarded } from "./trap.js";

export default {
  fetch: (request, env, ctx) => guarded(renew, () => answer(request, env, ctx)),
};

// The runtime calls the methods of an object, for half of what a request to its `fetch` costs, only where its class
// extends the runtime's own.
export class LedgerObject extends DurableObject {
  #ledger;
  #instance;

  // Answers a call with a reply, both as text.
  ask(call) {
    return this.#at((ledger) => ledger.ask(call));
  }

  alarm() {
    this.#at((ledger) => ledger.alarm());
  }

  #at(act) {
    return guarded(renew, (instance) => {
      if (this.#instance !== instance) {
        this.#ledger = new Ledger(this.ctx);
        this.#instance = instance;
      }
      return act(this.#ledger);
    });
  }
}
