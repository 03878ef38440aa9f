// The model servers: how each is started, and what it tells of itself. None of them is ours.
import { createHash } from "node:crypto";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "../../scripts/lib/ports.mjs";
import { cpuSeconds } from "../e2e/harness/processes.mjs";
import { atTime, eventually, within } from "../e2e/harness/wait.mjs";

// tests/upstreams/run says where these are.
const { UPSTREAMS_LLAMA_CPP, UPSTREAMS_GGUF, UPSTREAMS_MLX_LM, UPSTREAMS_MLX, UPSTREAMS_OLLAMA } = process.env;

const START_MS = 60_000;

/** llama.cpp's own HTTP server. */
export const llamaCpp = {
  name: "llama.cpp",
  missing: !UPSTREAMS_LLAMA_CPP,
  async start() {
    const program = runProgram(UPSTREAMS_LLAMA_CPP, [join(import.meta.dirname, "servers/llama_cpp.py"), UPSTREAMS_GGUF]);
    return program.serving(async () => {
      const [, origin] = await program.said(/serving at (\S+) /);
      const isBusy = async () => (await getJson(`${origin}/slots`)).some((slot) => slot.is_processing);
      return { origin, model: "tiny", context: 32768, isBusy };
    });
  },
};

/** Ollama, which has llama.cpp's engine and a server of its own. */
export const ollama = {
  name: "Ollama",
  missing: !UPSTREAMS_OLLAMA,
  async start() {
    const program = runProgram(UPSTREAMS_OLLAMA, ["serve"], (home) => ({
      OLLAMA_HOST: "127.0.0.1:0",
      OLLAMA_MODELS: join(home, "models"),
      OLLAMA_CONTEXT_LENGTH: "2048",
      OLLAMA_NUM_PARALLEL: "2",
      OLLAMA_KEEP_ALIVE: "-1",
    }));
    return program.serving(async () => {
      const [, address] = await program.said(/Listening on (127\.0\.0\.1:\d+)/);
      const origin = `http://${address}`;
      const bytes = readFileSync(UPSTREAMS_GGUF);
      const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
      await post(`${origin}/api/blobs/${digest}`, bytes);
      // The template leaves a prompt as it is, as the one in the model's file does for the other servers.
      // With two threads that wait for each other on a busy machine so small a model takes a hundred times as long.
      const parameters = { num_thread: 1 };
      const model = { model: "tiny", files: { "tiny.gguf": digest }, template: "{{ .Prompt }}", parameters, stream: false };
      await post(`${origin}/api/create`, JSON.stringify(model));
      return { origin, model: "tiny", context: 2048, isBusy: () => program.isBusy() };
    });
  },
};

/** mlx-lm, an HTTP server in Python, on Linux with MLX for the CPU. */
export const mlxLm = {
  name: "mlx-lm",
  missing: !UPSTREAMS_MLX_LM,
  async start() {
    const port = await freePort();
    const args = ["-m", "mlx_lm", "server", "--model", UPSTREAMS_MLX, "--host", "127.0.0.1", "--port", `${port}`];
    const program = runProgram(UPSTREAMS_MLX_LM, args, (home) => {
      // It lists what it has in this folder, and fails where there is none.
      mkdirSync(join(home, "hub"));
      return { HF_HUB_OFFLINE: "1", HF_HUB_CACHE: join(home, "hub") };
    });
    return program.serving(async () => {
      const origin = `http://127.0.0.1:${port}`;
      const answers = () => getJson(`${origin}/health`).catch(() => undefined);
      await program.unlessItEnds(eventually("mlx-lm to answer", answers, START_MS));
      return { origin, model: "default_model", context: 2048, isBusy: () => program.isBusy() };
    });
  },
};

/** A program with a home of its own, which ends when it is stopped and when this process ends, however that happens. */
function runProgram(command, args, environment = () => ({})) {
  const home = mkdtempSync(join(tmpdir(), "completions-edge-upstream-"));
  const removeHome = () => rmSync(home, { recursive: true, force: true });
  process.once("exit", removeHome);
  const guard = [join(import.meta.dirname, "servers/while_open.py"), command, ...args];
  const env = { PATH: process.env.PATH, HOME: home, NO_PROXY: "127.0.0.1", PYTHONUNBUFFERED: "1", ...environment(home) };
  const child = spawn(UPSTREAMS_LLAMA_CPP, guard, { env, cwd: home, detached: true });
  const ended = once(child, "close");
  child.stdin.on("error", () => {});

  let output = "";
  let wake = () => {};
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      output += text;
      wake();
    });
  }
  const tooEarly = ended.then(([code]) => {
    throw new Error(`${command} ended with ${code}: ${output.slice(-2000)}`);
  });
  tooEarly.catch(() => {});

  const program = {
    unlessItEnds: (promise) => Promise.race([promise, tooEarly]),
    /** The match of what it prints, as soon as it prints it. */
    said(pattern) {
      const seen = (async () => {
        for (;;) {
          const match = output.match(pattern);
          if (match) return match;
          await new Promise((resolve) => (wake = resolve));
        }
      })();
      return program.unlessItEnds(within(seen, `${pattern} from ${command}`, START_MS));
    },
    /**
     * Whether it computes: for a server that does not tell. Undefined where the system does not either. On a busy
     * machine it may not get a core for a while, so that only a whole second of next to nothing is rest.
     */
    async isBusy() {
      const before = cpuSeconds(child.pid);
      if (before === undefined) return undefined;
      await atTime(Date.now() + 1000);
      const used = cpuSeconds(child.pid) - before;
      // Less than nothing: one of its processes has ended meanwhile.
      return used < 0 || used > 0.05;
    },
    async stop() {
      child.stdin.end();
      await ended;
      removeHome();
      process.removeListener("exit", removeHome);
    },
    /** What `ready` tells of the server once it serves, with its `stop`. One that cannot start is not left behind. */
    async serving(ready) {
      try {
        return { ...(await ready()), stop: program.stop };
      } catch (error) {
        await program.stop();
        throw error;
      }
    },
  };
  return program;
}

async function getJson(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  return response.json();
}

async function post(url, body) {
  const response = await fetch(url, { method: "POST", body });
  if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  await response.arrayBuffer();
}
