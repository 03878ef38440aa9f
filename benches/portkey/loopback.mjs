// Loaded before Portkey's gateway, which listens on every interface and has no setting for that: whatever it listens on
// becomes a port of 127.0.0.1 that the system chooses, and is told on descriptor 3.
import { writeSync } from "node:fs";
import { Server } from "node:net";

const { listen } = Server.prototype;

Server.prototype.listen = function () {
  this.once("listening", () => writeSync(3, `${this.address().port}\n`));
  return listen.call(this, { host: "127.0.0.1", port: 0 });
};
