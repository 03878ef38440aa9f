// What a Worker pays that reads each piece of a body and sends it on, whatever it does to it: a pull stream that does
// nothing. The request goes to the upstream, and the answer's pieces are read one by one, when the client wants more.
export default {
  async fetch(request, env) {
    const upstream = await fetch(env.UPSTREAM + new URL(request.url).pathname, request);
    const reader = upstream.body.getReader();
    const body = new ReadableStream(
      {
        async pull(controller) {
          const { done, value } = await reader.read();
          if (done) controller.close();
          else controller.enqueue(value);
        },
        cancel: (reason) => reader.cancel(reason),
      },
      { highWaterMark: 0 },
    );
    return new Response(body, upstream);
  },
};
