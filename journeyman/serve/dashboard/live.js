// What has come since: one small question every few seconds, none while nobody looks.

import { get } from "./api.js";

const EVERY = 2000;
const SLOWEST = 30000;
const listeners = new Set();
let cursor = null;
let wait = EVERY;

/** Hear of each answer until the signal aborts. */
export function follow(listener, signal) {
  listeners.add(listener);
  signal.addEventListener("abort", () => listeners.delete(listener));
}

function show(state, words) {
  const pulse = document.getElementById("pulse");
  pulse.dataset.state = state;
  pulse.setAttribute("aria-label", words);
  pulse.title = words;
}

async function ask() {
  if (!document.hidden) {
    try {
      const found = await get("/v1/activity", { cursor });
      cursor = found.cursor;
      wait = EVERY;
      show("live", "connected");
      for (const listener of listeners) listener(found);
    } catch (error) {
      wait = Math.min(2 * wait, SLOWEST);
      show("away", error.message);
    }
  }
  setTimeout(ask, wait);
}

export const begin = () => void ask();
