// Follows a response from its start to its terminal event through any number of broken connections.
// Does what a browser's EventSource does, but with fetch, since an EventSource sends no Authorization header.

const TERMINAL = ["response.completed", "response.incomplete", "response.failed"];

/**
 * Yields every event of a new response, once and in order, as {id, type, data}.
 *
 * `request` is the body of POST /v1/responses; `base` is the API's address, "" for the page's own origin.
 * Throws an Error if the server refuses, or after `failuresMax` connections in a row without an event.
 */
export async function* follow(base, request, options = {}) {
  const { apiKey = "any", retryMs = 500, failuresMax = 30, signal, onCut = () => {} } = options;
  const headers = { authorization: `Bearer ${apiKey}`, "content-type": "application/json" };
  // In the background, so that it is not cancelled while no client is connected.
  const body = JSON.stringify({ ...request, background: true, stream: true });
  // The same key and body give the same response, so a POST whose answer was lost can be sent again.
  const create = { method: "POST", body, headers: { ...headers, "idempotency-key": crypto.randomUUID() }, signal };
  let path = "";
  let lastId = "";

  for (let failures = 0; failures < failuresMax; failures++) {
    try {
      const resume = { headers: { ...headers, "last-event-id": lastId }, signal };
      const answer = await (path ? fetch(base + path, resume) : fetch(`${base}/v1/responses`, create));
      await refuse(answer);
      for await (const event of readEvents(answer.body)) {
        failures = 0;
        lastId = event.id;
        if (event.type === "response.created") path = `/v1/responses/${event.data.response.id}?stream=true`;
        yield event;
        if (TERMINAL.includes(event.type)) return;
      }
      // A stream that ends before its terminal event is broken too: the node is shutting down.
    } catch (error) {
      if (error instanceof Refused || signal?.aborted) throw error;
    }
    onCut(lastId);
    await new Promise((resolve) => setTimeout(resolve, retryMs));
  }
  throw new Error(`no event came in ${failuresMax} connections`);
}

class Refused extends Error {}

/** Throws for an answer that a retry would not change; "busy" and "down" count as a broken connection. */
async function refuse(answer) {
  if (answer.ok) return;
  const text = await answer.text();
  if (answer.status === 429 || answer.status >= 500) throw new Error(text);
  throw new Refused(`${answer.status}: ${text}`);
}

/** Yields the complete events of a body of server-sent events; drops one that was cut off, which is sent again. */
async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      yield* blocks.map(parse).filter((event) => event.data !== undefined); // no data: a keep-alive comment
    }
  } finally {
    await reader.cancel().catch(() => {}); // the connection may be broken already
  }
}

function parse(block) {
  const event = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(": ");
    const value = line.slice(colon + 2);
    if (line.startsWith("id:")) event.id = value;
    if (line.startsWith("event:")) event.type = value;
    if (line.startsWith("data:")) event.data = JSON.parse(value);
  }
  return event;
}
