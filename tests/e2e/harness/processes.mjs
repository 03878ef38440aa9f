// What Linux tells of processes under /proc. Elsewhere there is nothing to read, and nothing is answered.
import { readdirSync, readFileSync } from "node:fs";

// The same on every Linux that Node runs on.
const TICKS_A_SECOND = 100;

/** The ids of this process's children of that name, the youngest last. */
export function childrenNamed(name) {
  const ids = read("/proc") ?? [];
  const children = ids.filter((id) => /^\d+$/.test(id)).map(statOf).filter((stat) => stat?.parent === process.pid && stat.name === name);
  return children.sort((a, b) => a.began - b.began).map(({ id }) => id);
}

/** How much memory a process holds, in bytes; undefined where the system does not tell. */
export function residentBytes(id) {
  const status = id === undefined ? undefined : text(`/proc/${id}/status`);
  const kilobytes = status?.match(/^VmRSS:\s*(\d+) kB/m)?.[1];
  return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
}

/** The seconds of CPU that a process's descendants have used so far; undefined where the system does not tell. */
export function cpuSeconds(id) {
  const stats = (read("/proc") ?? []).filter((name) => /^\d+$/.test(name)).map(statOf).filter(Boolean);
  const family = [id];
  for (const member of family) family.push(...stats.filter((stat) => stat.parent === member).map((stat) => stat.id));
  const ticks = stats.filter((stat) => family.includes(stat.id)).map((stat) => stat.ticks);
  return ticks.length === 0 ? undefined : ticks.reduce((sum, one) => sum + one) / TICKS_A_SECOND;
}

function statOf(id) {
  const stat = text(`/proc/${id}/stat`);
  if (stat === undefined) return undefined;
  // The name stands in parentheses and may hold anything; fields are counted from behind it: state, parent, …, and
  // from the 11th on the ticks in user mode and in the kernel.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const name = stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"));
  return { id: Number(id), name, parent: Number(fields[1]), ticks: Number(fields[11]) + Number(fields[12]), began: Number(fields[19]) };
}

const text = (path) => attempt(() => readFileSync(path, "utf8"));
const read = (path) => attempt(() => readdirSync(path));

/** A process may be gone by the time that it is looked at. */
function attempt(look) {
  try {
    return look();
  } catch {
    return undefined;
  }
}
