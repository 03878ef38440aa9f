// Ports at which nobody speaks HTTP: connections that fail before there is a request to have a script for.
import { createServer } from "node:net";
import { within } from "./wait.mjs";

export { freePort as portWithoutListener } from "../../../scripts/lib/ports.mjs";

/** A port where `meet` is all that a connection meets. */
export async function startPort(meet) {
  const sockets = new Set();
  const server = await listen((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => sockets.delete(socket));
    meet(socket);
  });
  return {
    port: server.address().port,
    /** Settles when every connection that there is now has closed. What nobody reads shows no end: it is read now. */
    allClosed: (what, limitMs) => {
      const closed = [...sockets].map((socket) => new Promise((resolve) => socket.once("close", resolve).resume()));
      return within(Promise.all(closed), what, limitMs);
    },
    async stop() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function listen(meet) {
  const server = createServer(meet);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}
