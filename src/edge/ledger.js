// What the ledger object needs of the runtime: its SQLite and its alarm.

const APPEND = "INSERT OR REPLACE INTO journal_1 VALUES (?, ?, ?)";

// The storage of a Durable Object.
export class Storage {
  #storage;
  #sql;

  constructor(ctx) {
    this.#storage = ctx.storage;
    this.#sql = ctx.storage.sql;
  }

  // Writes a row of the journal: what every request does, in one crossing.
  append(slot, seq, entry) {
    this.#sql.exec(APPEND, slot, seq, entry);
  }

  // The rows that a query returns, each an array of its columns.
  rows(query, bindings) {
    return this.#sql.exec(query, ...bindings).raw().toArray();
  }

  // Does something in one transaction; what returns false leaves no trace.
  transact(act) {
    const undone = {};
    try {
      this.#storage.transactionSync(() => {
        if (!act()) throw undone;
      });
    } catch (error) {
      if (error !== undone) throw error;
    }
  }

  // Has the alarm ring then. It is written together with whatever else this event writes.
  wakeAt(ms) {
    this.#storage.setAlarm(ms).catch((error) => console.warn(`the alarm was not set: ${error?.message ?? error}`));
  }
}
