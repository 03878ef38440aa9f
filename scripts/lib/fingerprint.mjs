// A hash of files' names and contents: whether anything changed, whatever the clocks of a checkout say.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { root } from "./paths.mjs";

function* filesOf(path) {
  const stat = statSync(join(root, path), { throwIfNoEntry: false });
  if (stat?.isFile()) yield path;
  if (!stat?.isDirectory()) return;
  for (const name of readdirSync(join(root, path)).sort()) yield* filesOf(join(path, name));
}

/// Paths (files or folders, absent ones are left out) relative to the repository, and texts that count too.
export function fingerprint(paths, texts = []) {
  const hash = createHash("sha256");
  for (const path of paths.flatMap((path) => [...filesOf(path)])) {
    const bytes = readFileSync(join(root, path));
    hash.update(`${path}\0${bytes.length}\0`).update(bytes);
  }
  return hash.update(JSON.stringify(texts)).digest("hex") + "\n";
}
