// Ports that can be had. What is asked for is asked before anything starts: a clear message instead of half a start.
import { createServer } from "node:net";
import { refuse } from "./step.mjs";

export function portArgument(name, fallback) {
  const port = Number(process.env[name] || fallback);
  if (!Number.isInteger(port) || port < 1 || port > 65535) throw refuse(`${name} must be a port number; it is "${process.env[name]}"`);
  return port;
}

export async function demandFree(name, port) {
  const free = await new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
  });
  if (!free) throw refuse(`port ${port} is taken. Stop what listens there, or choose another: make dev ${name}=${port + 100}`);
}

/// A port that was free a moment ago, and at which nobody listens: for a server that does not say which one it was given.
export async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}
