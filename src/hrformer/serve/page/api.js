// The server's two addresses: its models, and a prediction of one of them.

const KEY = "hrformer-token";

/** What the server said instead of an answer. `status` is 0 where it could not be reached. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Keep the bearer token until the tab is closed; "" forgets it. */
export function keepToken(token) {
  sessionStorage.setItem(KEY, token);
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
