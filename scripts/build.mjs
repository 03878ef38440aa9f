// Compiles the Worker: cargo makes the module, wasm-bindgen the JavaScript around it, wasm-opt makes the module smaller,
// and esbuild puts all JavaScript into one file.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bundleSize } from "./lib/bundle.mjs";
import { command } from "./lib/command.mjs";
import { fingerprint } from "./lib/fingerprint.mjs";
import { npmBin, root } from "./lib/paths.mjs";
import { refuse, step } from "./lib/step.mjs";
import { BUILD_TOOLS, tool } from "./lib/tools.mjs";

const TARGET = "wasm32-unknown-unknown";
const build = join(root, "build");
const stampPath = join(build, ".built-from");
// Where wasm-bindgen writes; src/edge names its files from here, and entry.js names this folder.
const staging = join(root, "target", "worker");
// What rustc and wasm-bindgen use and the runtime has, named one by one: with `--all-features` an encoding could come out
// that the runtime does not know yet.
const FEATURES = ["mutable-globals", "sign-ext", "nontrapping-float-to-int", "bulk-memory", "multivalue", "reference-types", "simd"];

await command(async () => {
  const wasmBindgen = tool("wasm-bindgen-cli");
  const lacking = BUILD_TOOLS.map(tool).find(({ path }) => !existsSync(path));
  if (lacking || !existsSync(npmBin("esbuild"))) throw refuse("the build tools are not installed: run scripts/setup (or `make build`)");

  const inputs = ["src", "Cargo.toml", "Cargo.lock", "build.rs", ".cargo", "scripts/build.mjs", "package-lock.json"];
  const wanted = fingerprint(inputs, [wasmBindgen.version, process.env.RUSTFLAGS ?? "", process.env.WASM_NAMES ?? ""]);
  const unchanged = existsSync(stampPath) && readFileSync(stampPath, "utf8") === wanted && existsSync(join(build, "index.js"));
  if (!unchanged) {
    rmSync(stampPath, { force: true });
    // The paths in the module's imports hold for this folder alone.
    const cargo = ["build", "--release", "--lib", "--target", TARGET, "--target-dir", join(root, "target")];
    await step("Worker build", "cargo", cargo, { cwd: root });
    await step("wasm-bindgen", wasmBindgen.path, [
      join(root, "target", TARGET, "release", "completions_edge.wasm"),
      ...["--target", "module", "--no-typescript", "--out-dir", staging, "--out-name", "index"],
      ...["--experimental-reset-state-function", "--remove-producers-section"],
    ], { quiet: true });
    const index = join(staging, "index.js");
    // The runtime takes a module by a plain import; the other form is still a proposal.
    writeFileSync(index, readFileSync(index, "utf8").replace("import source ", "import "));
    mkdirSync(build, { recursive: true });
    const module = join(staging, "index_bg.wasm");
    await step("wasm-opt", npmBin("wasm-opt"), [
      // By itself it would merge all that a request does into one function, of which the runtime makes much work.
      ...[module, "-o", join(build, "index_bg.wasm"), "-O3", "--one-caller-inline-max-function-size=50"],
      ...FEATURES.map((feature) => `--enable-${feature}`),
      ...(process.env.WASM_NAMES ? ["--debuginfo"] : []),
    ], { quiet: true });
    await step("esbuild", npmBin("esbuild"), [
      ...[join(root, "src", "edge", "entry.js"), `--outfile=${join(build, "index.js")}`],
      ...["--bundle", "--format=esm", "--minify", "--external:cloudflare:*", "--external:*.wasm"],
    ], { quiet: true });
    writeFileSync(stampPath, wanted);
  }
  console.log(`${unchanged ? "build/ is up to date" : "build/ is new"}: ${bundleSize()}`);
});
