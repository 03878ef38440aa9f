// How we run wrangler: on the Node it needs, asking nothing and telling nobody.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { start } from "./children.mjs";
import { npmBin, root } from "./paths.mjs";
import { refuse } from "./step.mjs";

export const NAMESPACE_PLACEHOLDER = "put-your-kv-namespace-id-here";

const QUIET = {
  WRANGLER_SEND_METRICS: "false",
  WRANGLER_SEND_ERROR_REPORTS: "false",
  WRANGLER_NO_SKILLS_UPDATE_PROMPTS: "true",
  WRANGLER_HIDE_BANNER: "true",
  // Local requests carry a made-up `request.cf` instead of one that is fetched.
  CLOUDFLARE_CF_FETCH_ENABLED: "false",
  // In this clone instead of the home directory.
  WRANGLER_LOG_PATH: join(root, ".wrangler", "logs"),
  WRANGLER_REGISTRY_PATH: join(root, ".wrangler", "registry"),
};

/// Starts wrangler and gives the child process. `stdio` as for spawn.
export function startWrangler(args, { stdio }) {
  const program = join(root, "node_modules", "wrangler", "bin", "wrangler.js");
  if (!existsSync(program)) throw refuse("wrangler is not installed: run scripts/setup");
  return start(npmBin("node"), [program, ...args], { cwd: root, env: { ...process.env, ...QUIET }, stdio });
}

/// Runs wrangler to its end and gives what it wrote to standard output.
export async function wrangler(args) {
  const child = startWrangler(args, { stdio: ["ignore", "pipe", "pipe"] });
  const written = { out: "", err: "" };
  child.stdout.setEncoding("utf8").on("data", (text) => { written.out += text; });
  child.stderr.setEncoding("utf8").on("data", (text) => { written.err += text; });
  const end = await child.ended;
  if (end.error) throw end.error;
  if (end.code !== 0) throw refuse(`wrangler ${args.slice(0, 3).join(" ")} failed:\n${written.out}${written.err}`.trimEnd());
  return written.out;
}

/// Stops before anything is sent to Cloudflare while wrangler.toml names no real KV namespace.
export function demandNamespace() {
  if (!readFileSync(join(root, "wrangler.toml"), "utf8").includes(NAMESPACE_PLACEHOLDER)) return;
  throw refuse(`wrangler.toml does not name your KV namespace yet. Once:
  npx wrangler login
  npx wrangler kv namespace create KV
and put the id that it prints into wrangler.toml, in place of "${NAMESPACE_PLACEHOLDER}".`);
}
