// The yardstick: a Worker that does nothing. The request goes to the upstream and the answer comes back untouched, so the
// runtime pumps its body natively. No Worker of any kind can do less.
export default {
  fetch(request, env) {
    return fetch(env.UPSTREAM + new URL(request.url).pathname, request);
  },
};
