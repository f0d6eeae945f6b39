// What the server is asked. A key, where it wants one, stays in this tab (sessionStorage) and goes nowhere else.

import { h } from "./dom.js";

const KEY = "journeyman.key";
let asking = null;

/** An answer that is an error; `message` is the server's own words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch {
    throw new Refused(0, "the server cannot be reached");
  }
  if (answer.ok) return answer.json();
  const body = await answer.json().catch(() => null);
  const error = body?.error ?? { message: `the server answered ${answer.status}`, code: "" };
  if (answer.status === 401 || (answer.status === 403 && error.code === "insufficient_scope")) {
    await askForKey(error.message);
    return call(path, options);
  }
  throw new Refused(answer.status, error.message);
}

/** Get a path with its query; what is null or empty is left out. */
export function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return call(given.length ? `${path}?${new URLSearchParams(given)}` : path);
}

export const post = (path, body) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const episodePath = (kind, id) => `/v1/${kind}/${id.split("/").map(encodeURIComponent).join("/")}`;

let place = null;

/** What does not change while the page is open: the overview's `name` and `live`. */
export const about = () => (place ??= get("/v1/overview"));

/** Ask the reader for an API key, once for all requests that wait for it. */
function askForKey(reason) {
  asking ??= new Promise((done) => {
    const dialog = document.getElementById("key");
    const field = h("input", { type: "password", id: "key-field", autocomplete: "off", required: true });
    const form = h(
      "form",
      {
        method: "dialog",
        onsubmit: () => {
          sessionStorage.setItem(KEY, field.value.trim());
          asking = null;
          done();
        },
      },
      h("h2", { id: "key-title" }, "This server wants an API key"),
      h("p", { class: "soft" }, `It says: ${reason}. The key is kept in this tab until you close it.`),
      h("label", { for: "key-field" }, "API key"),
      field,
      h("p", { class: "actions" }, h("button", { class: "main" }, "Go on")),
    );
    dialog.replaceChildren(form);
    dialog.oncancel = (event) => event.preventDefault();
    dialog.showModal();
    field.focus();
  });
  return asking;
}
