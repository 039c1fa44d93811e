// The public API, as any script would use it. Every failure becomes one ApiError whose message says what to do.

const BASE = "/api/v1";

export class ApiError extends Error {
  constructor(message, { code = "unreachable", status = 0, details = {} } = {}) {
    super(message);
    this.code = code;
    this.status = status;
    this.details = details;
  }
}

function address(path, params) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params || {})) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") query.append(key, one);
    }
  }
  const tail = query.toString();
  return BASE + path + (tail ? `?${tail}` : "");
}

async function send(path, options, params) {
  let answer;
  try {
    answer = await fetch(address(path, params), { credentials: "same-origin", ...options });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new ApiError("The server does not answer. Is `mlpl serve` still running?");
  }
  if (answer.status === 401) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
    return new Promise(() => {});
  }
  const isJson = (answer.headers.get("content-type") || "").includes("json");
  if (answer.status === 204) return null;
  const body = isJson ? await answer.json() : await answer.text();
  if (!answer.ok) {
    const fault = isJson ? body : {};
    throw new ApiError(fault.message || `The server answered ${answer.status}.`, { code: fault.code, status: answer.status, details: fault.details });
  }
  return body;
}

export const get = (path, params, { signal } = {}) => send(path, { signal }, params);

export const post = (path, body, { signal } = {}) =>
  send(path, { method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify(body ?? {}) });

export const remove = (path) => send(path, { method: "DELETE" });

export const postForm = (path, form, params, { signal } = {}) => send(path, { method: "POST", signal, body: form }, params);

export const previewUrl = (frameId) => `${BASE}/frames/${encodeURIComponent(frameId)}/preview`;
export const imageUrl = (frameId) => `${BASE}/frames/${encodeURIComponent(frameId)}/image`;

/** Runs `work` now and every `seconds` while the page is looked at; returns a function that ends it. */
export function poll(work, seconds) {
  let timer = null;
  let ended = false;
  const turn = async () => {
    clearTimeout(timer);
    if (ended) return;
    if (document.visibilityState === "visible") {
      try {
        await work();
      } catch {
        // The footer already says that the server is away; the next turn asks again.
      }
    }
    if (!ended) timer = setTimeout(turn, seconds * 1000);
  };
  const wake = () => document.visibilityState === "visible" && turn();
  document.addEventListener("visibilitychange", wake);
  turn();
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", wake);
  };
}
