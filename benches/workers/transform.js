// What our Worker does to a stream, as one would write it in JavaScript and without its checks: each event is parsed,
// rewritten into the chunk format, and sent on. No key, no quota, no usage, one dialect, LF line ends, one choice.
const PREFIX = "data: ";

function rewriter(model) {
  const decoder = new TextDecoder();
  const encoder = new TextEncoder();
  const id = `cmpl-${crypto.randomUUID()}`;
  const created = Math.floor(Date.now() / 1000);
  let rest = "";

  function rewrite(event) {
    const data = event.slice(PREFIX.length);
    if (data === "[DONE]") return `${event}\n\n`;
    const { choices } = JSON.parse(data);
    const [{ index, text, logprobs, finish_reason }] = choices;
    const choice = { index, delta: { text }, text, logprobs, finish_reason };
    const chunk = { id, object: "text_completion.chunk", created, model, choices: [choice] };
    return `${PREFIX}${JSON.stringify(chunk)}\n\n`;
  }

  return new TransformStream({
    // One piece goes out for each that came in, whatever number of events it holds.
    transform(bytes, controller) {
      const events = (rest + decoder.decode(bytes, { stream: true })).split("\n\n");
      rest = events.pop();
      let out = "";
      for (const event of events) if (event.startsWith(PREFIX)) out += rewrite(event);
      if (out) controller.enqueue(encoder.encode(out));
    },
  });
}

export default {
  async fetch(request, env) {
    const body = await request.json();
    const upstream = await fetch(env.UPSTREAM + new URL(request.url).pathname, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: request.headers.get("authorization") },
      body: JSON.stringify(body),
    });
    if (!body.stream || !upstream.ok) return upstream;
    return new Response(upstream.body.pipeThrough(rewriter(body.model)), {
      headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" },
    });
  },
};
