// What a deploy uploads, and how big it is.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { root } from "./paths.mjs";

/// How large the module may be, gzipped: what is larger starts more slowly at every location that is new to it.
const MOST_MODULE_BYTES = 400 * 1024;

const kib = (bytes) => `${(bytes / 1024).toFixed(1)} KiB`;

function files() {
  return ["index.js", "index_bg.wasm"].map((name) => {
    const bytes = readFileSync(join(root, "build", name));
    return { name, raw: bytes.length, gzipped: gzipSync(bytes).length };
  });
}

export function bundleSize() {
  const sum = (field) => kib(files().reduce((total, file) => total + file[field], 0));
  const each = files().map(({ name, raw, gzipped }) => `${name} ${kib(raw)}, ${kib(gzipped)} gzipped`);
  return `${sum("raw")}, ${sum("gzipped")} gzipped (${each.join("; ")})`;
}

/// Why the module is too large, or undefined.
export function tooLarge() {
  const { gzipped } = files().find(({ name }) => name.endsWith(".wasm"));
  if (gzipped <= MOST_MODULE_BYTES) return undefined;
  return `the module is ${kib(gzipped)} gzipped, and may be ${kib(MOST_MODULE_BYTES)}`;
}
