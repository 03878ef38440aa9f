// make fuzz [FUZZ_SECONDS=60]: every target of fuzz/ for so many seconds. cargo-fuzz asks for a nightly compiler;
// RUSTC_BOOTSTRAP lets the stable one take its options.
import { execFileSync } from "node:child_process";
import { dirname } from "node:path";
import { start } from "./lib/children.mjs";
import { command } from "./lib/command.mjs";
import { root } from "./lib/paths.mjs";
import { writeSeeds } from "./lib/seeds.mjs";
import { refuse } from "./lib/step.mjs";
import { tool } from "./lib/tools.mjs";

await command(async () => {
  const seconds = Number(process.env.FUZZ_SECONDS || 60);
  if (!Number.isInteger(seconds) || seconds < 1) throw refuse("FUZZ_SECONDS must be a whole number of seconds");
  const env = { ...process.env, RUSTC_BOOTSTRAP: "1", PATH: `${dirname(tool("cargo-fuzz").path)}:${process.env.PATH}` };
  const targets = execFileSync("cargo", ["fuzz", "list"], { cwd: root, env, encoding: "utf8" }).split("\n").filter(Boolean);
  if (targets.length === 0) throw refuse("fuzz/ has no targets");
  for (const target of targets) {
    writeSeeds(target);
    console.log(`\nfuzzing ${target} for ${seconds} s`);
    const run = start("cargo", ["fuzz", "run", target, "--", `-max_total_time=${seconds}`], { cwd: root, env, stdio: ["ignore", "inherit", "inherit"] });
    const { code, error } = await run.ended;
    if (error) throw error;
    if (code !== 0) throw refuse(`${target}: found a failure; its input is in fuzz/artifacts/${target}/`);
  }
  console.log(`\n${targets.length} targets, ${seconds} s each, no failure: ${targets.join(", ")}`);
});
