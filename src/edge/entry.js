// The Worker's modules as the runtime wants them: a handler for requests, and the class of the ledger objects.
import { DurableObject } from "cloudflare:workers";
import { LedgerObject as Ledger, __wbg_reset_state as renew, fetch as answer } from "../../target/worker/index.js";
import { guarded } from "./trap.js";

// How long a ledger collects what it is told and nobody waits for, before it writes it down in one row.
const TOLD_MS = 20;

export default {
  fetch: (request, env, ctx) => guarded(renew, () => answer(request, env, ctx)),
};

// The runtime calls the methods of an object, for half of what a request to its `fetch` costs, only where its class
// extends the runtime's own.
export class LedgerObject extends DurableObject {
  #ledger;
  #instance;
  #written;

  // Answers a call with a reply, both as text.
  ask(call) {
    return this.#at((ledger) => ledger.ask(call)) ?? this.#writeDown();
  }

  // What was told in a moment is written down at once, and answered then.
  #writeDown() {
    const told = this.#ledger;
    const write = async () => {
      await scheduler.wait(TOLD_MS);
      this.#written = undefined;
      return this.#at((ledger) => {
        if (ledger !== told) throw new Error("what was told is lost");
        return ledger.writeDown();
      });
    };
    return (this.#written ??= write());
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
