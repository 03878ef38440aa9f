// The steps of scripts/setup. Each looks whether it is needed, so a second run does nothing.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { installCargoTools, removeUnfinished } from "./lib/cargo-tools.mjs";
import { command } from "./lib/command.mjs";
import { installNpmPackages } from "./lib/npm-packages.mjs";
import { refuse, step } from "./lib/step.mjs";
import { BUILD_TOOLS } from "./lib/tools.mjs";

async function addWasmTarget() {
  const target = "wasm32-unknown-unknown";
  const libraries = execFileSync("rustc", ["--print", "target-libdir", "--target", target], { encoding: "utf8" });
  if (existsSync(libraries.trim())) return;
  try {
    await step(`rustup target add ${target}`, "rustup", ["target", "add", target]);
  } catch (error) {
    if (error.message.includes("ENOENT")) throw refuse(`this Rust has no ${target}, and there is no rustup to add it`);
    throw error;
  }
}

const tools = process.argv.includes("fuzz") ? [...BUILD_TOOLS, "cargo-fuzz"] : BUILD_TOOLS;
// The npm packages mostly wait for the network, so they come beside the compilers.
await command(() => Promise.all([addWasmTarget(), installCargoTools(tools), installNpmPackages()]), removeUnfinished);
