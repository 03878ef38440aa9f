// A KV namespace in memory: what bare workerd asks of the service behind a KV binding, as far as reads go. A read is
// GET /<key>, percent-encoded; the value is the body, and a key that does not exist is a 404.
export default {
  fetch(request, env) {
    if (request.method !== "GET") return new Response("this namespace is only read", { status: 501 });
    const key = decodeURIComponent(new URL(request.url).pathname.slice(1));
    if (!Object.hasOwn(env.RECORDS, key)) return new Response(null, { status: 404 });
    return Response.json(env.RECORDS[key]);
  },
};
