// Where fuzzing begins: the requests, streams and answers of the fixtures, in the form that each target takes, and small
// inputs that earlier fuzzing found, a line each, in base64, in fuzz/seeds.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./paths.mjs";

const fixtures = join(root, "tests/fixtures");

// The dialects in the order of the table that the targets choose from.
function dialects() {
  const table = readFileSync(join(root, "src/dialect/mod.rs"), "utf8").split("\ndialects! {\n")[1];
  return [...table.matchAll(/^ {4}\w+, "([a-z-]+)" =>/gm)].map(([, name]) => name);
}

function* files() {
  for (const [index, dialect] of dialects().entries()) {
    for (const folder of readdirSync(join(fixtures, dialect))) {
      for (const file of readdirSync(join(fixtures, dialect, folder))) {
        yield { index, file, bytes: readFileSync(join(fixtures, dialect, folder, file)) };
      }
    }
  }
}

// Writes the seeds of a target into its corpus, once.
export function writeSeeds(target) {
  const corpus = join(root, "fuzz/corpus", target);
  mkdirSync(corpus, { recursive: true });
  const write = (seed) => writeFileSync(join(corpus, `seed-${createHash("sha1").update(seed).digest("hex")}`), seed);
  const found = join(root, "fuzz/seeds", `${target}.txt`);
  const lines = existsSync(found) ? readFileSync(found, "utf8").split("\n").filter(Boolean) : [];
  for (const line of lines) write(Buffer.from(line, "base64"));
  const framing = { sse_decoder: "sse", ndjson_decoder: "ndjson", event_stream_decoder: "eventstream" }[target];
  for (const { index, file, bytes } of files()) {
    const isAnswer = file.startsWith("upstream");
    let head;
    if (target === "request") head = file === "request.json" ? [] : undefined;
    else if (target === "answers") head = isAnswer && file.endsWith(".json") ? [index, Number(file.split(".").at(-2)) - 400 || 0] : undefined;
    else if (target === "transcoder") head = isAnswer && !file.endsWith(".json") ? [index, 7, 0] : undefined;
    else if (framing) head = isAnswer && file.endsWith(`.${framing}`) ? [7] : undefined;
    if (!head) continue;
    write(Buffer.concat([Buffer.from(head), bytes]));
  }
}
