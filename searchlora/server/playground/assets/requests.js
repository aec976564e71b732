// Requests to the server, and server-sent events.

import { element } from "./elements.js";

let key = sessionStorage.getItem("key") || "";

export function useKey(text) {
  if (!/^[\x21-\x7e]*$/.test(text)) throw new Error("The key has a character that no key has, such as a typographic quotation mark. Copy it again.");
  key = text;
  sessionStorage.setItem("key", key);
}

export async function send(method, path, body, signal) {
  const request = { method, signal, headers: { Accept: "application/json" } };
  if (key) request.headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw failure("The server does not respond. Check that it is still running.", 0);
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  const { status } = response;
  if (status === 401 || (error && error.code === "role_missing")) { // another key may be allowed to
    element("key-form").hidden = false;
    element("key").focus();
  }
  throw failure(error && typeof error.message === "string" ? error.message : `The server ${status >= 500 ? "failed" : "refused"} (${status}).`, status);
}

// An error with the status of the response; 0 without one.
const failure = (message, status) => Object.assign(new Error(message), { status });

// The events of a stream: {name, data}. A stream that breaks off is an error.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  while (!ended) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The connection to the server broke off. These results are incomplete.");
    }
    if (piece.done) throw new Error("The server closed the connection before the search finished. These results are incomplete.");
    rest += piece.value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const name = (block.match(/^event: (.*)$/m) || ["", ""])[1];
      const data = JSON.parse(block.match(/^data: (.*)$/m)[1]);
      if (name === "error") throw new Error(data.error.message);
      yield { name, data };
      ended ||= name === "result";
    }
  }
}

// Run a task, and show its error on the page. A task that was aborted shows none.
export async function attempt(task) {
  showProblem("");
  try {
    await task();
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error.message);
  }
}

function showProblem(problem) {
  element("problem").textContent = problem;
  element("problem").hidden = !problem;
}
