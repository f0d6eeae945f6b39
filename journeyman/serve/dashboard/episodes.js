// The list of episodes: filters that are part of the address, pages, and what has come meanwhile.

import { get } from "./api.js";
import { h } from "./dom.js";
import { follow } from "./live.js";
import { list } from "./rows.js";
import { plural } from "./words.js";

const PAGE = 40;
const FIELDS = ["search", "origin", "outcome", "has_feedback", "job", "version", "least", "most", "since"];
const HOUR = 3600;

/** Ids of the page shown last, for j and k from episode to episode. */
export let order = [];

function select(name, label, options, chosen) {
  const made = options.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  return h("label", {}, h("span", {}, label), h("select", { name }, made));
}

const text = (name, label, value, more = {}) =>
  h("label", {}, h("span", {}, label), h("input", { name, value: value ?? "", autocomplete: "off", ...more }));

const share = { type: "number", min: 0, max: 100, step: 1, inputmode: "numeric", placeholder: "%" };

function filters(query) {
  const of = (name) => query.get(name) ?? "";
  const given = FIELDS.slice(1).filter((name) => of(name)).length;
  const search = h("input", { type: "search", name: "search", value: of("search"), placeholder: "Search words or an id", "aria-label": "Search", autocomplete: "off" });
  const form = h(
    "form",
    { class: "filters", role: "search" },
    h("div", { class: "search" }, search, h("kbd", { "aria-hidden": "true" }, "/")),
    h(
      "details",
      { open: given > 0 || innerWidth > 760 },
      h("summary", {}, given ? `Filters (${given})` : "Filters"),
      h(
        "div",
        { class: "fields" },
        select("origin", "From", [["", "everywhere"], ["served", "serving"], ["learning", "learning"]], of("origin")),
        select("outcome", "Outcome", [["", "any"], ["success", "success"], ["failure", "no success"], ["unknown", "not judged"]], of("outcome")),
        select("has_feedback", "Feedback", [["", "any"], ["true", "with"], ["false", "without"]], of("has_feedback")),
        select("since", "When", [["", "any time"], ["1", "last hour"], ["24", "last day"], ["168", "last week"]], of("since")),
        text("job", "Job", of("job"), { placeholder: "any" }),
        text("version", "Version", of("version"), { type: "number", min: 0, step: 1, placeholder: "any" }),
        text("least", "V from", of("least"), share),
        text("most", "V to", of("most"), share),
        h("button", { type: "reset", class: "plain" }, "Clear"),
      ),
    ),
  );
  return { form, search };
}

/** What the fields ask of the server: shares as 0 to 1, hours as a time. */
function asked(query) {
  const found = Object.fromEntries(FIELDS.map((name) => [name, query.get(name)]));
  for (const name of ["least", "most"]) if (found[name]) found[name] = Number(found[name]) / 100;
  if (found.since) found.since = Math.floor(Date.now() / 1000 - HOUR * Number(found.since));
  return found;
}

export async function showEpisodes({ signal, keys, query }) {
  const { form, search } = filters(query);
  const shown = list("Episodes");
  const fresh = h("button", { type: "button", class: "fresh", hidden: true, onclick: () => load(0) });
  const older = h("button", { type: "button", onclick: () => load(at + 1) }, "Older");
  const newer = h("button", { type: "button", onclick: () => load(at - 1) }, "Newer");
  const note = h("p", { class: "note", role: "status" });
  let at = 0;
  let cursors = [null];
  let unseen = new Set();

  async function load(page) {
    if (page < 0 || cursors[page] === undefined) return;
    const found = await get("/v1/episodes", { ...asked(query), cursor: cursors[page], limit: PAGE });
    if (signal.aborted) return;
    at = page;
    cursors = cursors.slice(0, at + 1);
    if (found.next) cursors.push(found.next);
    shown.fill(found.data);
    order = found.data.map((one) => one.id);
    older.disabled = !found.next;
    newer.disabled = at === 0;
    note.textContent = found.data.length ? `${plural(found.data.length, "episode")}, page ${at + 1}` : found.next ? "None among these. Older ones have not been looked through yet." : "No episode is like that.";
    unseen = new Set();
    fresh.hidden = true;
    scrollTo(0, 0);
  }

  let timer = 0;
  const change = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const wanted = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
      if (wanted.toString() === query.toString()) return;
      query = wanted;
      history.replaceState(null, "", query.size ? `#/episodes?${query}` : "#/episodes");
      cursors = [null];
      load(0).catch((error) => (note.textContent = error.message));
    }, 200);
  };
  form.addEventListener("input", change);
  form.addEventListener("reset", () => {
    for (const field of form.querySelectorAll("input")) field.setAttribute("value", "");
    for (const option of form.querySelectorAll("option")) option.removeAttribute("selected");
    change();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !event.target.matches("input")) return;
    event.preventDefault();
    event.target.blur();
    change();
  });
  follow(({ data }) => {
    for (const one of data) unseen.add(one.id);
    fresh.hidden = !unseen.size || at > 0;
    fresh.textContent = `${unseen.size >= 100 ? "100 or more" : unseen.size} new or changed: show`;
  }, signal);
  keys({ ...shown.keys, "/": () => search.focus(), n: () => load(at + 1), p: () => load(at - 1) });
  await load(0);
  return h(
    "section",
    { class: "episodes" },
    h("h1", {}, "Episodes"),
    form,
    fresh,
    shown.node,
    h("div", { class: "paging" }, newer, note, older),
  );
}
