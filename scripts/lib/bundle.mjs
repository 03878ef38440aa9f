// What a deploy uploads, and how big it is.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { root } from "./paths.mjs";

const kib = (bytes) => `${(bytes / 1024).toFixed(1)} KiB`;

export function bundleSize() {
  const files = ["index.js", "index_bg.wasm"].map((name) => {
    const bytes = readFileSync(join(root, "build", name));
    return { name, raw: bytes.length, gzipped: gzipSync(bytes).length };
  });
  const sum = (field) => kib(files.reduce((total, file) => total + file[field], 0));
  const each = files.map(({ name, raw, gzipped }) => `${name} ${kib(raw)}, ${kib(gzipped)} gzipped`);
  return `${sum("raw")}, ${sum("gzipped")} gzipped (${each.join("; ")})`;
}
