// API keys as the Worker knows them.
import { createHash } from "node:crypto";

export const KEY_SHAPE = /^sk-([a-z0-9]{8,32})-[A-Za-z0-9]{32,64}$/;

export const hashOf = (key) => createHash("sha256").update(key).digest("hex");
