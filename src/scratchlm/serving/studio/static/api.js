// Asking the server: JSON, and answers that come as server-sent events.

const KEY = "scratchlm-key";

/** What went wrong, in the server's own words. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Keep the key for this tab; it is sent with every request from now on. */
export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

async function send(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  const raw = body instanceof Blob;
  if (body !== undefined) headers["Content-Type"] = raw ? "application/octet-stream" : "application/json";
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const data = body === undefined || raw ? body : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: data, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is `scratchlm serve` still running?", 0);
  }
  if (answer.ok) return answer;
  if (answer.status === 401) window.dispatchEvent(new Event("scratchlm-key-needed"));
  const told = await answer.json().catch(() => null);
  throw new ApiError(told?.error?.message ?? `The server answered ${answer.status}.`, answer.status);
}

/** The JSON at a path. `signal` is an AbortSignal. */
export async function get(path, { signal } = {}) {
  return (await send(path, { signal })).json();
}

/** Send JSON, or a Blob as it is, and get JSON. */
export async function post(path, body, { signal } = {}) {
  return (await send(path, { method: "POST", body, signal })).json();
}

/** Send JSON, get the events of the answer one by one, each parsed. Throws what the server tells in an event.
 *  To stop: abort the signal; the server notices that nobody reads. */
export async function* stream(path, body, { signal } = {}) {
  const answer = await send(path, { method: "POST", body, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ApiError("The answer broke off.", 0);
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const told = JSON.parse(data);
        if (told.error) throw new ApiError(told.error.message, answer.status);
        yield told;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
