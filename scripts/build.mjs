// Compiles the Worker with worker-build. Every program that worker-build would download is named to it, so a
// build needs nothing but the crates.
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bundleSize } from "./lib/bundle.mjs";
import { command } from "./lib/command.mjs";
import { fingerprint } from "./lib/fingerprint.mjs";
import { npmBin, root } from "./lib/paths.mjs";
import { refuse, step } from "./lib/step.mjs";
import { BUILD_TOOLS, tool } from "./lib/tools.mjs";

const stampPath = join(root, "build", ".built-from");

await command(async () => {
  const wasmBindgen = tool("wasm-bindgen-cli");
  const workerBuild = tool("worker-build");
  const lacking = BUILD_TOOLS.map(tool).find(({ path }) => !existsSync(path));
  if (lacking || !existsSync(npmBin("esbuild"))) throw refuse("the build tools are not installed: run scripts/setup (or `make build`)");

  const inputs = ["src", "Cargo.toml", "Cargo.lock", "build.rs", ".cargo"];
  const wanted = fingerprint(inputs, [workerBuild.version, wasmBindgen.version, process.env.RUSTFLAGS ?? ""]);
  const unchanged = existsSync(stampPath) && readFileSync(stampPath, "utf8") === wanted && existsSync(join(root, "build", "index.js"));
  if (!unchanged) {
    rmSync(stampPath, { force: true });
    await step("Worker build", workerBuild.path, ["--release"], {
      cwd: root,
      env: {
        WASM_BINDGEN_BIN: wasmBindgen.path,
        ESBUILD_BIN: npmBin("esbuild"),
        WASM_OPT_BIN: npmBin("wasm-opt"),
      },
    });
    writeFileSync(stampPath, wanted);
  }
  console.log(`${unchanged ? "build/ is up to date" : "build/ is new"}: ${bundleSize()}`);
});
