// The page: which view the address names, keys, and the theme.

import { Refused, about } from "./api.js";
import { h, tell } from "./dom.js";
import { showEpisodes } from "./episodes.js";
import { begin } from "./live.js";
import { showOverview } from "./overview.js";
import { showTrace } from "./trace.js";
import { showVersions } from "./versions.js";

const main = document.getElementById("main");
const PAGES = { "": ["overview", showOverview], episodes: ["episodes", showEpisodes], versions: ["versions", showVersions] };
const KEYS = [
  ["j, k", "next, previous: in a list, or from episode to episode"],
  ["Enter", "open the episode"],
  ["Escape", "back; leave a field"],
  ["/", "search"],
  ["n, p", "older, newer page"],
  ["←, →", "token by token along the text"],
  ["f", "to the greatest fall of V"],
  ["o, e, v", "overview, episodes, versions"],
  ["t", "light or dark"],
  ["?", "this"],
];
let leaving = new AbortController();
let viewKeys = {};

async function route() {
  const [path, query] = location.hash.slice(1).replace(/^\//, "").split("?");
  leaving.abort();
  leaving = new AbortController();
  viewKeys = {};
  const isEpisode = path.startsWith("episode/");
  const [name, show] = isEpisode ? ["episodes", showTrace] : (PAGES[path] ?? PAGES[""]);
  for (const link of document.querySelectorAll("nav a"))
    link.toggleAttribute("aria-current", link.dataset.page === name);
  const place = { signal: leaving.signal, keys: (keys) => (viewKeys = keys), query: new URLSearchParams(query ?? "") };
  if (isEpisode) place.id = decodeURIComponent(path.slice("episode/".length));
  try {
    const shown = await show(place);
    if (place.signal.aborted) return;
    main.replaceChildren(shown);
    main.dataset.view = isEpisode ? "trace" : name;
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  } catch (error) {
    if (place.signal.aborted) return;
    if (!(error instanceof Refused)) console.error(error);
    main.replaceChildren(h("section", { class: "empty-state" }, h("h1", {}, "That did not work"), h("p", {}, error.message)));
  }
}

function theme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const chosen = dark ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  localStorage.setItem("journeyman.theme", chosen);
  tell(chosen);
}

function help() {
  const dialog = document.getElementById("help");
  const rows = KEYS.map(([keys, what]) => h("tr", {}, h("th", { scope: "row" }, keys.split(/(?<=,) /).map((k) => h("kbd", {}, k.replace(",", "")))), h("td", {}, what)));
  dialog.replaceChildren(
    h("h2", { id: "help-title" }, "Keyboard"),
    h("table", {}, h("tbody", {}, rows)),
    h("p", { class: "soft" }, "The colour behind each token is V: how likely the model itself held success to be, right after that token. Orange: it expects to fail. Blue: to succeed."),
    h("form", { method: "dialog", class: "actions" }, h("button", { class: "main" }, "Close")),
  );
  dialog.showModal();
}

const always = {
  "?": help,
  t: theme,
  o: () => (location.hash = "#/"),
  e: () => (location.hash = "#/episodes"),
  v: () => (location.hash = "#/versions"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input, textarea, select");
  if (typing && event.key === "Escape") typing.blur();
  if (typing) return;
  if (event.key === "Enter" && event.target.closest("a, button, summary")) return;
  const act = viewKeys[event.key] ?? always[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});
document.getElementById("theme").addEventListener("click", theme);
document.getElementById("keys").addEventListener("click", help);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", route);
await route();
begin();
about().then((found) => {
  document.getElementById("name").textContent = found.name;
  document.title = `${found.name} · Journeyman`;
}, () => {});
