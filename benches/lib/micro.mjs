// The native measurements of benches/micro, and what criterion made of them.
import { readdir, readFile, rm } from "node:fs/promises";
import path from "node:path";
import { start } from "./processes.mjs";

const MICRO = path.join(path.dirname(import.meta.dirname), "micro");
const CRITERION = path.join(MICRO, "target/criterion");

/** One row a measurement: its name, nanoseconds, and nanoseconds or bytes a unit where it has units. */
export async function micro() {
  // What was measured once and is no more would be read again.
  await rm(CRITERION, { recursive: true, force: true });
  const args = ["bench", "--quiet", "--jobs", "2", "--manifest-path", path.join(MICRO, "Cargo.toml"), "--target-dir", path.join(MICRO, "target")];
  const cargo = start("cargo", args, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  cargo.stderr.on("data", (bytes) => (said += bytes));
  const how = await cargo.gone;
  if (how !== 0) throw new Error(`cargo bench ended with ${how}: ${said}`);

  const files = await readdir(CRITERION, { recursive: true });
  const folders = files.filter((file) => file.endsWith("new/benchmark.json")).map(path.dirname);
  const rows = await Promise.all(folders.map(read));
  return rows.sort((a, b) => (a.name < b.name ? -1 : 1));
}

async function read(folder) {
  const json = async (file) => JSON.parse(await readFile(path.join(CRITERION, folder, file), "utf8"));
  const [{ full_id: name, throughput }, { median }] = [await json("benchmark.json"), await json("estimates.json")];
  const { lower_bound: low, upper_bound: high } = median.confidence_interval;
  return { name, median: median.point_estimate, low, high, events: throughput?.Elements ?? null, bytes: throughput?.Bytes ?? null };
}
