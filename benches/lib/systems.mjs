// What is measured, and how each of it is started. benches/README.md says what each is there for.
import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { startLiteLlm } from "./litellm.mjs";
import { startPortkey } from "./portkey.mjs";
import { firstLine, start } from "./processes.mjs";
import { javaScript, ledgerAlone, ours, records, withObject } from "./workerd.mjs";

const BENCHES = path.dirname(import.meta.dirname);
const TOOLS = path.join(BENCHES, "tools/target/release");
const BUILD = path.join(path.dirname(BENCHES), "build");
const WORKERD = createRequire(import.meta.url)("workerd").default;

export const LOAD = path.join(TOOLS, "load");

/** Ways in which the upstream writes: each is a route of the upstream, and a model of our Worker. */
export const SCRIPTS = ["one", "many", "paced", "brisk", "short"];

/** For how long tokens gather in the systems that show what that brings, in milliseconds. */
export const GATHERED = [10, 20, 50, 100];

const byScript = (workload) => `/${workload.script}/v1/completions`;

// Our Worker with these settings in its configuration.
const gateway = (settings, build = BUILD) => ({ start: (run, name) => startGateway(run, name, settings, build) });

const javaScriptWorker = (file, configOf = javaScript) => ({
  async start(run, name) {
    const workerd = await startWorkerd(run, name, [workerFile(file)], (disk) => configOf(run.compat, file, run.upstream.port, disk));
    return { ...workerd, path: byScript };
  },
});

/** By name. A variant of our Worker is one line: its name, and what its configuration says. */
export const SYSTEMS = {
  straight: { start: (run) => ({ port: run.upstream.port, path: byScript }) },
  "pass-through": javaScriptWorker("pass_through.js"),
  "pull-identity": javaScriptWorker("pull_identity.js"),
  "js-rewriter": javaScriptWorker("transform.js"),
  "js-least": javaScriptWorker("least.js"),
  "js-least-ledger": javaScriptWorker("least.js", withObject),
  gateway: gateway({}),
  "gateway-no-slices": gateway({ quota: { slice_ms: 0 } }),
  "gateway-quota-off": gateway({ quota: { enabled: false } }),
  ...Object.fromEntries(GATHERED.map((ms) => [`gateway-gather-${ms}`, gateway({ model: { gather_ms: ms } })])),
  // Another build of the Worker, where BENCH_OTHER_BUILD names its folder: two builds side by side.
  ...(process.env.BENCH_OTHER_BUILD && { "gateway-other-build": gateway({}, path.resolve(process.env.BENCH_OTHER_BUILD)) }),
  portkey: { start: startPortkey },
  ...(process.env.BENCH_LITELLM === "1" && { litellm: { start: (run) => startLiteLlm(run, SCRIPTS) } }),
  "empty-object": { start: (run) => startObjects(run, "/empty") },
  ledger: { start: (run) => startObjects(run, "/ledger") },
};

export async function startUpstream() {
  const child = start(path.join(TOOLS, "upstream"), [], { stdio: ["pipe", "pipe", "inherit"] });
  return { port: Number(await firstLine(child, child.stdout)) };
}

/** Each workerd has a folder of its own, with the files that it embeds; `configOf` gets an empty one in it. It runs under
 *  the program `run.under`, if there is one. */
export async function startWorkerd(run, name, files, configOf) {
  const folder = path.join(run.folder, name);
  const disk = path.join(folder, "disk");
  await mkdir(disk, { recursive: true });
  for (const file of files) await copyFile(file, path.join(folder, path.basename(file)));
  const config = path.join(folder, "config.capnp");
  await writeFile(config, configOf(disk));
  const spawned = performance.now();
  const [program, ...args] = [...(run.under ?? []), WORKERD, "serve", config, "--control-fd=3"];
  const child = start(program, args, { stdio: ["ignore", "ignore", "inherit", "pipe"] });
  const { port } = JSON.parse(await firstLine(child, child.stdio[3]));
  return { port, pid: child.pid, child, spawned };
}

const workerFile = (name) => path.join(BENCHES, "workers", name);
const buildFiles = (build) => ["index.js", "index_bg.wasm"].map((name) => path.join(build, name));

async function startGateway(run, name, settings, build) {
  const config = (disk) => ours(run.compat, records(run.upstream.port, run.key, SCRIPTS, settings), disk);
  const workerd = await startWorkerd(run, name, [...buildFiles(build), workerFile("kv.js")], config);
  return { ...workerd, path: () => "/v1/completions" };
}

// The ledger and the object that does nothing are in one workerd: they are never loaded at the same time.
async function startObjects(run, route) {
  const files = [...buildFiles(BUILD), workerFile("ledger_client.js")];
  run.objects ??= startWorkerd(run, "objects", files, (disk) => ledgerAlone(run.compat, disk));
  return { ...(await run.objects), path: () => route };
}
