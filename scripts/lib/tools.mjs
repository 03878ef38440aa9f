// The build tools that cargo compiles for us: which version of each, and where it is kept.
//
// The version of wasm-bindgen follows Cargo.lock: it refuses a library of another version than its own.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { cacheDir, root } from "./paths.mjs";

function lockedVersion(crate) {
  const lock = readFileSync(join(root, "Cargo.lock"), "utf8");
  const found = lock.match(new RegExp(`^name = "${crate}"\\r?\\nversion = "([^"]+)"`, "m"));
  if (!found) throw new Error(`Cargo.lock has no entry for ${crate}`);
  return found[1];
}

/// `features` are extra arguments of `cargo install`; `bin` is the one program that we run.
const TOOLS = {
  // Its default feature is a TLS client for a test runner that we do not use.
  "wasm-bindgen-cli": {
    bin: "wasm-bindgen",
    version: () => lockedVersion("wasm-bindgen"),
    features: ["--no-default-features"],
  },
  "cargo-fuzz": { bin: "cargo-fuzz", version: () => "0.13.2", features: [] },
};

export const BUILD_TOOLS = ["wasm-bindgen-cli"];

export function tool(name) {
  const { bin, version, features } = TOOLS[name];
  const folder = join(cacheDir, `${name}-${version()}`);
  return { name, bin, version: version(), features, folder, path: join(folder, "bin", bin) };
}
