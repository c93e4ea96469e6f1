// Speaks to the API. The token is in a cookie that scripts cannot read and that counts beside X-Console only.

const ANSWER_MS = 15000;
const SILENCE_MS = 45000; // the stream sends something at least every fifteen seconds
const OWN_PAGE = { "X-Console": "1" };

/** What went wrong, in words for an operator; `status` is 0 when nothing answered. */
export class ApiError extends Error {
  constructor(status, message, problem = {}) {
    super(message);
    this.status = status;
    this.problem = problem;
  }
}

/** The JSON of an answer, null when it has no body. `query` leaves out what is empty. */
export async function request(path, { method = "GET", query = {}, body, headers = {}, signal } = {}) {
  const response = await send(path + queryString(query), {
    method,
    headers: { ...headers, ...OWN_PAGE, Accept: "application/json", ...(body ? { "Content-Type": "application/json" } : {}) },
    body: body ? JSON.stringify(body) : undefined,
    signal: signal ? AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]) : AbortSignal.timeout(ANSWER_MS),
  });
  if (response.status === 204) return null;
  return response.json();
}

export function queryString(query) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, cache: "no-store", credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (options.signal?.aborted && options.signal.reason?.name !== "TimeoutError") throw error;
    throw new ApiError(0, "The API does not answer.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401 && !path.startsWith("/console/session")) window.dispatchEvent(new Event("signed-out"));
  throw new ApiError(response.status, describe(response, problem), problem);
}

function describe(response, problem) {
  if (response.status === 429) {
    return `Too many requests; the API takes more in ${response.headers.get("retry-after") ?? "a few"} s.`;
  }
  const details = (problem.errors ?? []).map((error) => `${error.location.at(-1)}: ${error.message}`).join("; ");
  return details || problem.detail || problem.title || `The API answered ${response.status}.`;
}

/** Follows a stream of server-sent events until `signal`, with a pause between attempts that grows to fifteen
 *  seconds, and goes on behind `lastId`. EventSource cannot send the header, so this reads the response itself. */
export async function follow(path, { onOpen, onEvent, onLost, signal, lastId = null }) {
  for (let failures = 0; !signal.aborted; failures += 1) {
    try {
      for await (const event of events(path, lastId, signal, () => {
        failures = 0;
        onOpen();
      })) {
        if (event.type === "cut") throw new ApiError(0, `The API ended the stream: ${JSON.parse(event.data).reason}.`);
        lastId = event.id ?? lastId;
        onEvent(event, lastId);
      }
      throw new ApiError(0, "The API ended the stream.");
    } catch (error) {
      if (signal.aborted) return;
      const known = error instanceof ApiError ? error : new ApiError(0, "The API does not answer.");
      if ([410, 422].includes(known.status) && lastId !== null) {
        lastId = null; // too long ago: begin anew
      } else if (known.status >= 400 && known.status < 500 && known.status !== 429) {
        onLost(known, false);
        return;
      }
      onLost(known, true);
    }
    await pause(Math.min(15000, 500 * 2 ** Math.min(failures, 5)) * (0.75 + Math.random() / 2), signal);
  }
}

async function* events(path, lastId, signal, onOpen) {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const response = await send(path, {
      headers: { ...OWN_PAGE, Accept: "text/event-stream", ...(lastId === null ? {} : { "Last-Event-ID": lastId }) },
      signal: AbortSignal.any([signal, silence.signal]),
    });
    onOpen();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      rest += value.replaceAll("\r", "");
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (event.id !== null || event.data !== null) yield event;
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

function parse(block) {
  const event = { id: null, type: "message", data: [] };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "id") event.id = value;
    else if (field === "event") event.type = value;
    else if (field === "data") event.data.push(value);
  }
  return { ...event, data: event.data.length ? event.data.join("\n") : null };
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
