// What the environment says of a run.

function number(name, otherwise, least, most) {
  const value = Number(process.env[name] || otherwise);
  if (value >= least && value <= most) return value;
  console.error(`bench: ${name} must be a number from ${least} to ${most}`);
  process.exit(1);
}

function pattern(name) {
  try {
    return new RegExp(process.env[name] ?? "");
  } catch (error) {
    console.error(`bench: ${name} must be a regular expression: ${error.message}`);
    process.exit(1);
  }
}

const isQuick = process.env.BENCH_QUICK === "1";

export const settings = {
  seconds: number("BENCH_SECONDS", isQuick ? 0.5 : 2, 0.1, 60),
  rounds: number("BENCH_ROUNDS", isQuick ? 1 : 5, 1, 50),
  only: pattern("BENCH_ONLY"),
  systems: pattern("BENCH_SYSTEMS"),
  isQuick,
};

const PARTIAL = ["BENCH_QUICK", "BENCH_ONLY", "BENCH_SYSTEMS", "BENCH_OTHER_BUILD"];

/** The settings that were given, as one would give them again. A folder of this machine says nothing elsewhere. */
export const given = [...PARTIAL, "BENCH_LITELLM", "BENCH_SECONDS", "BENCH_ROUNDS"]
  .filter((name) => process.env[name])
  .map((name) => [name, name === "BENCH_OTHER_BUILD" ? "…" : process.env[name]])
  .map(([name, value]) => `${name}=${/^[\w.-]+$/.test(value) ? value : `'${value}'`}`);

/** Whether everything is measured, for as long as it should be: only then the results are worth keeping. */
export const isWhole = !PARTIAL.some((name) => process.env[name]) && settings.seconds >= 2 && settings.rounds >= 5;
