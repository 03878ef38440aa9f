// LiteLLM's proxy: installed once for this user, and started with one process on this machine's own address.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, open, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { fingerprint } from "../../scripts/lib/fingerprint.mjs";
import { cacheDir, root } from "../../scripts/lib/paths.mjs";
import { freePort } from "../../scripts/lib/ports.mjs";
import { start } from "./processes.mjs";

const REQUIREMENTS = "benches/litellm/requirements.txt";
const STARTS_WITHIN_MS = 120_000;

const cannotInstall = (why) => Object.assign(new Error(why), { cannotInstall: true });

/** The Python that it is installed for. Its folder is named by what is installed, and good once the stamp is in it. */
async function installed() {
  let version;
  try {
    version = execFileSync("python3", ["-c", "import sys, venv, ensurepip; print(sys.version)"], { encoding: "utf8" });
  } catch {
    throw cannotInstall("there is no python3 that can make environments");
  }
  const folder = path.join(cacheDir, `litellm-${fingerprint([REQUIREMENTS], [version]).slice(0, 12)}`);
  const stamp = path.join(folder, "installed");
  const python = path.join(folder, "bin/python");
  if (existsSync(stamp)) return python;

  console.error("bench: installing LiteLLM's proxy, 700 MB, once for this user");
  await rm(folder, { recursive: true, force: true });
  await mkdir(cacheDir, { recursive: true });
  const steps = [
    ["python3", "-m", "venv", folder],
    [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", path.join(root, REQUIREMENTS)],
  ];
  for (const [program, ...args] of steps) {
    const how = await start(program, args, { stdio: ["ignore", "ignore", "inherit"] }).gone;
    if (how !== 0) throw cannotInstall(`${args.slice(0, 3).join(" ")} ended with ${how}`);
  }
  await writeFile(stamp, "");
  return python;
}

async function isListening(port) {
  try {
    return (await fetch(`http://127.0.0.1:${port}/health/liveliness`)).ok;
  } catch {
    return false;
  }
}

/** `scripts` are the upstream's ways of writing, each a model of the proxy's. */
export async function startLiteLlm(run, scripts) {
  const python = await installed();
  const port = await freePort();
  const model = (script) => ({
    model_name: script,
    litellm_params: {
      model: `text-completion-openai/${script}`,
      api_base: `http://127.0.0.1:${run.upstream.port}/${script}/v1`,
      api_key: "none",
    },
  });
  // JSON is YAML.
  const config = path.join(run.folder, "litellm.yaml");
  await writeFile(config, JSON.stringify({ model_list: scripts.map(model) }));
  const log = await open(path.join(run.folder, "litellm.log"), "w");
  const program = "import sys; from litellm import run_server; sys.exit(run_server())";
  const args = ["-c", program, "--config", config, "--host", "127.0.0.1", "--port", String(port), "--num_workers", "1", "--telemetry", "False"];
  const env = { ...process.env, LITELLM_MASTER_KEY: run.key, LITELLM_MODE: "PRODUCTION", LITELLM_LOG: "ERROR" };
  const child = start(python, args, { env, stdio: ["ignore", log.fd, log.fd] });
  await log.close();
  let how;
  child.gone.then((code) => (how = code ?? "nothing"));
  for (const began = Date.now(); !(await isListening(port)); await setTimeout(200)) {
    if (how === undefined && Date.now() - began < STARTS_WITHIN_MS) continue;
    throw new Error(`LiteLLM's proxy did not start: ${await readFile(path.join(run.folder, "litellm.log"), "utf8")}`);
  }
  return { port, pid: child.pid, path: () => "/v1/completions" };
}
