// The server's two addresses: its models, and a prediction of one of them.

const KEY = "hrformer-token";

/** What the server said instead of an answer. `status` is 0 where it could not be reached; `tried`: a token was sent. */
export class ServerError extends Error {
  constructor(message, status, tried = false) {
    super(message);
    Object.assign(this, { status, tried });
  }
}

/** Keep the bearer token until the tab is closed; "" forgets it. False where a header cannot carry it. */
export function keepToken(token) {
  if (!/^[ -~]*$/.test(token)) return false;
  sessionStorage.setItem(KEY, token);
  return true;
}

/** {models, limits} of the server. */
export function fetchModels() {
  return call("v1/models", {});
}

/**
 * {model, results} of one picture.
 * `fields` are the form's text fields by name; `signal` ends the wait for the answer.
 */
export function fetchPrediction(model, file, fields, signal) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  body.append("image", file, file.name);
  return call(`v1/models/${encodeURIComponent(model)}:predict`, { method: "POST", body, signal });
}

async function call(path, options) {
  const token = sessionStorage.getItem(KEY);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?", 0);
  }
  if (answer.ok) return answer.json();
  if (answer.status === 401) throw new ServerError(token ? "That token is wrong." : "This server wants a token.", 401, Boolean(token));
  throw new ServerError(await sentence(answer), answer.status);
}

async function sentence(answer) {
  let text = `The server answered with status ${answer.status}.`;
  try {
    const { detail } = await answer.json();
    if (typeof detail === "string" && detail) text = `The server says: ${detail}`;
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  const wait = answer.headers.get("Retry-After");
  const full = /[.!?]$/.test(text) ? text : `${text}.`;
  return wait ? `${full} Try again in ${wait} s.` : full;
}
