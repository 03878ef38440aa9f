// Where things are: the repository, the per-user tool cache, and what local development keeps.
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/// Files of local development that belong to this clone alone; git ignores the folder.
export const devDir = join(root, ".dev");

/// Shared by every clone of this user, so that a fresh clone compiles no build tool again.
export const cacheDir = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "completions-edge");

export const npmBin = (name) => join(root, "node_modules", ".bin", name);
