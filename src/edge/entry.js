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
  // What will be written down, by the milliseconds that it waits.
  #writes = new Map();

  // Answers a call with a reply, both as text. What it says is written down by then.
  ask(call) {
    const reply = this.#at((ledger) => ledger.ask(call));
    const { waitMs } = this.#ledger;
    return waitMs === 0 ? reply : this.#written(waitMs).then(() => reply);
  }

  // Resolves when all is written down that has happened by now, in so many milliseconds at most.
  #written(waitMs) {
    let written = this.#writes.get(waitMs);
    if (!written) this.#writes.set(waitMs, (written = this.#writeDown(waitMs)));
    return written;
  }

  async #writeDown(waitMs) {
    const told = this.#ledger;
    const { losses } = told;
    await scheduler.wait(waitMs);
    this.#writes.delete(waitMs);
    this.#at((ledger) => {
      if (ledger !== told) throw new Error("it is lost");
      ledger.writeDown(losses);
    });
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
