// The binding LEDGER: the real ledger, the real one on a store that fails now and then, or an object of another Worker's that
// fails in the way that a test wants.

const STAND_IN = "ledger-stand-in";

// The calls and replies of src/quota/call.rs, as far as a stand-in answers any: an object with one key, which says what
// it is.
const ADMITTED = `JSON.stringify({ decided: { refusal: null, standings: [] } })`;

/** What a stand-in does with the text of a call. A timer keeps the runtime from calling the one that hangs a dead one. */
const BEHAVIOURS = {
  throws: `throw new Error("the ledger is broken");`,
  hangs: `await scheduler.wait(3_600_000);`,
  "takes reserves and nothing else": `
    if ("reserve" in JSON.parse(text)) return ${ADMITTED};
    await scheduler.wait(3_600_000);`,
  "fails at first": `
    const call = JSON.parse(text);
    if ("reserve" in call) return ${ADMITTED};
    this.failed ??= new Set();
    const [what] = Object.keys(call);
    if (!this.failed.has(what)) {
      this.failed.add(what);
      throw new Error("the ledger is broken");
    }
    console.log("told: " + JSON.stringify(call));
    return JSON.stringify("done");`,
};

const NO_HANDLER = `export default { fetch: () => new Response(null, { status: 404 }) };`;

// Every fifth row of the journal is not taken, among the first fifty; then the store is sound.
const ON_A_STORE_THAT_FAILS = `
  import { LedgerObject as Ledger } from "./worker/index.js";
  let rows = 0;
  export class LedgerObject extends Ledger {
    constructor(ctx, env) {
      super(ctx, env);
      const { storage } = ctx;
      const exec = (query, ...bindings) => {
        if (query.includes("INTO journal_1")) {
          rows += 1;
          if (rows <= 50 && rows % 5 === 0) throw new Error("the disk is full");
        }
        return storage.sql.exec(query, ...bindings);
      };
      const failing = {
        sql: { exec },
        transactionSync: (act) => storage.transactionSync(act),
        setAlarm: (ms) => storage.setAlarm(ms),
      };
      Object.defineProperty(this, "ctx", { value: { storage: failing } });
    }
  }
  ${NO_HANDLER}`;

/** The binding, and the Workers that it needs beside ours, whose modules are given. "absent" is no binding at all. */
export function ledgerBindings(ledger, worker, runtime, workerModules) {
  if (ledger === "absent") return { env: {}, workers: [] };
  if (ledger === "real") return { env: { LEDGER: bindingTo(worker) }, workers: [] };
  if (ledger === "fails to write now and then") {
    const ours = Object.entries(workerModules).map(([name, module]) => [`worker/${name}`, module]);
    return standIn(ON_A_STORE_THAT_FAILS, runtime, Object.fromEntries(ours));
  }
  const behaviour = BEHAVIOURS[ledger];
  if (!behaviour) throw new Error(`there is no ledger that ${ledger}`);
  const code = `
    import { DurableObject } from "cloudflare:workers";
    export class LedgerObject extends DurableObject {
      async ask(text) {${behaviour}}
    }
    ${NO_HANDLER}`;
  return standIn(code, runtime, {});
}

function standIn(code, runtime, modules) {
  const config = {
    name: STAND_IN,
    ...runtime,
    manifest: { mainModule: "index.js", modulesRoot: "/", modules: { "index.js": { type: "esm", contents: code }, ...modules } },
    exports: { LedgerObject: { type: "durable-object", storage: "sqlite" } },
  };
  return { env: { LEDGER: bindingTo(STAND_IN) }, workers: [{ config }] };
}

function bindingTo(worker) {
  return { type: "durable-object", worker, exportName: "LedgerObject" };
}
