// The binding AI: the runtime's own client of Workers AI, with a service of ours behind it.
//
// Miniflare wires that client to Cloudflare only. A plugin of miniflare's may write any binding of workerd's, so that this
// one wires it to a server on this machine, or to a Worker.

const PLUGIN = "ai-on-the-wire";
const THROWING = "ai-that-throws";

/**
 * What the Worker needs for bindings to Workers AI. `AI` goes to the HTTP server at `address`; behind `AI_THROWS` is a
 * service that throws an error with the message `throws`.
 */
export function aiBindings({ address, throws } = {}, runtime) {
  const env = {};
  const workers = [];
  if (address) env.AI = binding({ address });
  if (throws) {
    env.AI_THROWS = binding({ worker: THROWING });
    const code = `export default { fetch() { throw new Error(${JSON.stringify(throws)}); } };`;
    const manifest = { mainModule: "index.js", modulesRoot: "/", modules: { "index.js": { type: "esm", contents: code } } };
    workers.push({ config: { name: THROWING, ...runtime, manifest } });
  }
  return { env, workers };
}

function binding(options) {
  return { type: `unsafe:${PLUGIN}`, dev: { plugin: { package: import.meta.filename, name: PLUGIN }, options } };
}

const ours = ({ config }) =>
  Object.entries(config.env ?? {})
    .filter(([, { type }]) => type === `unsafe:${PLUGIN}`)
    .map(([name, { dev }]) => ({ name, ...dev.options }));

const serviceOf = ({ name, worker }) => (worker ? `core:user:${worker}` : `${PLUGIN}:${name}`);

/** What miniflare looks for in the module that a binding of ours names. */
export const plugins = {
  [PLUGIN]: {
    bindingTypeDescription: "AI",
    getBindings: (options) =>
      ours(options).map((one) => ({
        name: one.name,
        wrapped: {
          moduleName: "cloudflare-internal:ai-api",
          innerBindings: [{ name: "fetcher", service: { name: serviceOf(one) } }],
        },
      })),
    getNodeBindings: () => ({}),
    getServices: ({ options }) =>
      ours(options)
        .filter(({ address }) => address)
        .map((one) => ({ name: serviceOf(one), external: { address: one.address, http: {} } })),
  },
};
