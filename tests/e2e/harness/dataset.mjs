// The binding ANALYTICS: a dataset of Analytics Engine that writes each data point into the log. Miniflare's own keeps
// nothing that a test could look at.

const STAND_IN = "dataset-stand-in";
/** What a data point begins with in the log. */
export const DATA_POINT = "data point: ";

/** The binding, and the Worker that it needs beside ours. */
export function datasetBinding(runtime) {
  const code = `
    import { WorkerEntrypoint } from "cloudflare:workers";
    export class Dataset extends WorkerEntrypoint {
      writeDataPoint(point) { console.log(${JSON.stringify(DATA_POINT)} + JSON.stringify(point)); }
    }
    export default { fetch: () => new Response(null, { status: 404 }) };`;
  const manifest = { mainModule: "index.js", modulesRoot: "/", modules: { "index.js": { type: "esm", contents: code } } };
  return {
    env: { ANALYTICS: { type: "worker", worker: STAND_IN, exportName: "Dataset" } },
    workers: [{ config: { name: STAND_IN, ...runtime, manifest, exports: { Dataset: { type: "worker" } } } }],
  };
}
