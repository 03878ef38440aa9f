// What is done to each system: the load, and who gets it. benches/README.md says what each is to show.
import { settings } from "./settings.mjs";
import { GATHERED } from "./systems.mjs";

// Text events of a stream and its finish event, as benches/tools/src/script.rs writes them.
const EVENTS = 201;
const SHORT_EVENTS = 5;

const WORKERS = ["pass-through", "pull-identity", "js-rewriter", "gateway", "gateway-quota-off", "gateway-other-build", "portkey", "litellm"];
const BURST = ["straight", ...WORKERS.toSpliced(3, 0, "js-least")];
const ANSWERING = ["straight", "pass-through", "js-least", "js-least-ledger", "gateway", "gateway-no-slices", "gateway-quota-off", "gateway-other-build", "portkey", "litellm"];

// Streams at a human pace take 4 s each; they begin spread over a second. Connections begin streams for `seconds`, and all
// streams go on to their end.
const paced = (connections, systems, more) => ({
  name: `paced-${connections}`,
  title: `${connections} open streams, an event every 20 ms`,
  script: "paced",
  isPaced: true,
  stream: true,
  events: EVENTS,
  connections,
  systems,
  ramp: 1,
  seconds: Math.max(settings.seconds, 1.1),
  ...more,
});

// So long that a runtime has grown to the size that it keeps, some seconds before the end.
const HELD = { rounds: 1, seconds: settings.isQuick ? 6 : Math.max(settings.seconds, 24) };

export const WORKLOADS = [
  ...[1, 16, 64].map((connections) => ({
    name: `not-streamed-${connections}`,
    title: `not streamed, ${connections} ${connections === 1 ? "connection" : "connections"}`,
    script: "one",
    connections,
    systems: ANSWERING,
  })),
  { name: "burst-one", title: "streams of 200 events, one a write, 16 connections", script: "one", stream: true, events: EVENTS, connections: 16, systems: BURST },
  { name: "burst-many", title: "streams of 200 events, 16 a write, 16 connections", script: "many", stream: true, events: EVENTS, connections: 16, systems: BURST },
  { name: "ttft", title: "time to the first token, 1 connection", script: "short", stream: true, events: SHORT_EVENTS, connections: 1, systems: ["straight", ...WORKERS] },
  paced(32, ["straight", ...WORKERS.filter((name) => name !== "gateway-quota-off")]),
  paced(150, ["pass-through", "pull-identity", "js-rewriter", "gateway", "gateway-other-build"]),
  paced(500, ["straight", "pass-through", "pull-identity", "gateway", "gateway-other-build"], HELD),
  {
    ...paced(32, ["gateway", ...GATHERED.map((ms) => `gateway-gather-${ms}`)]),
    name: "gathering",
    title: "32 open streams, an event every 5 ms, which gather for so many ms (`gather_ms`)",
    script: "brisk",
    // These streams take a second.
    ramp: 0.3,
  },
  { name: "ledger", title: "the ledger alone: a call that is waited for and one that is not, to one object, 16 connections", says: "settled", script: "one", connections: 16, systems: ["empty-object", "ledger"] },
];

/** The same for every system: what they are asked by is a path or a model. */
export const bodyOf = ({ script, stream }) =>
  JSON.stringify({ model: script, prompt: "Say this is a test", max_tokens: 256, ...(stream && { stream: true }) });
