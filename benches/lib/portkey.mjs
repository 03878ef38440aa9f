// Portkey's gateway on Node: installed once for this user, and started on this machine's own address.
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import path from "node:path";
import { fingerprint } from "../../scripts/lib/fingerprint.mjs";
import { cacheDir } from "../../scripts/lib/paths.mjs";
import { firstLine, start } from "./processes.mjs";

const HERE = path.join(path.dirname(import.meta.dirname), "portkey");
const FILES = ["package.json", "package-lock.json"];

/** The folder that it is installed in. It is named by what is installed, and appears when that is complete. */
async function installed() {
  const hash = fingerprint(FILES.map((file) => `benches/portkey/${file}`));
  const folder = path.join(cacheDir, `portkey-${hash.slice(0, 12)}`);
  if (existsSync(folder)) return folder;

  console.error("bench: installing Portkey's gateway, once for this user");
  await mkdir(cacheDir, { recursive: true });
  const fresh = await mkdtemp(path.join(cacheDir, ".installing-"));
  try {
    for (const file of FILES) await copyFile(path.join(HERE, file), path.join(fresh, file));
    // Its install script patches what it is developed with; nothing here needs that.
    const npm = start("npm", ["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], { cwd: fresh, stdio: ["ignore", "ignore", "inherit"] });
    const how = await npm.gone;
    if (how !== 0) throw Object.assign(new Error(`npm ci ended with ${how}`), { cannotInstall: true });
    await rename(fresh, folder);
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
  return folder;
}

export async function startPortkey(run) {
  const program = path.join(await installed(), "node_modules/@portkey-ai/gateway/build/start-server.js");
  const child = start(process.execPath, ["--import", path.join(HERE, "loopback.mjs"), program, "--headless"], {
    env: { ...process.env, NODE_ENV: "production" },
    stdio: ["ignore", "ignore", "inherit", "pipe"],
  });
  return {
    port: Number(await firstLine(child, child.stdio[3])),
    pid: child.pid,
    path: () => "/v1/completions",
    // The upstream is named by the request.
    headers: ({ script }) => ({
      "x-portkey-provider": "openai",
      "x-portkey-custom-host": `http://127.0.0.1:${run.upstream.port}/${script}/v1`,
    }),
  };
}
