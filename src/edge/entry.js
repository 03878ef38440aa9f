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
  // When this ledger will have written down what has happened, by the milliseconds that this waits.
  #writes;

  // Answers a call with a reply, both as text, when what it says is written down.
  ask(call) {
    const reply = this.#at((ledger) => ledger.ask(call));
    const { waitMs } = this.#ledger;
    return waitMs === 0 ? reply : this.#written(waitMs).then(() => reply);
  }

  // Resolves when all is written down that has happened by now.
  #written(waitMs) {
    let written = this.#writes.get(waitMs);
    if (!written) this.#writes.set(waitMs, (written = this.#writeDown(waitMs)));
    return written;
  }

  async #writeDown(waitMs) {
    const asked = this.#ledger;
    const writes = this.#writes;
    try {
      await scheduler.wait(waitMs);
    } finally {
      writes.delete(waitMs);
    }
    this.#at((ledger) => {
      if (ledger !== asked) throw new Error("what the ledger was told is lost");
      ledger.writeDown();
    });
  }

  alarm() {
    this.#at((ledger) => ledger.alarm());
  }

  // A ledger is good as long as the module's instance and the store are.
  #at(act) {
    return guarded(renew, (instance) => {
      if (this.#instance !== instance || this.#ledger.isBroken) {
        this.#ledger = new Ledger(this.ctx);
        this.#writes = new Map();
        this.#instance = instance;
      }
      return act(this.#ledger);
    });
  }
}
