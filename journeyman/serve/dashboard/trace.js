// One episode: its text coloured by V as it went, V's curve under it, and what became of it beside it.

import { about, episodePath, get } from "./api.js";
import { curve } from "./curve.js";
import { h } from "./dom.js";
import { order } from "./episodes.js";
import { feedbackForm, heard } from "./feedback.js";
import { link, origin } from "./rows.js";
import { moment, outcome, percent, plural, shade } from "./words.js";

const LONG = 700;
const SHOWN = 12;
const SPEAKERS = { system: "system", user: "user", assistant: "model", tool: "tool", environment: "environment" };

function span(path, one) {
  const own = path.series.length > 0 && one.position !== null && one.position >= path.series[0][0] && one.value !== null;
  if (!own) return one.text;
  const marks = [one.call && "call", path.fall?.position === one.position && "fell", path.rise?.position === one.position && "rose", path.forked === one.position && "forked"];
  return h("span", { class: ["t", `v${shade(one.value)}`, ...marks.filter(Boolean)].join(" "), "data-at": one.position }, one.text);
}

const words = (passage) => passage.spans.map((one) => one.text).join("");

function said(path, passage) {
  const text = words(passage);
  const shown = h("div", { class: "prose" }, passage.spans.map((one) => span(path, one)));
  if (passage.turn === 0 && text.length > LONG) return h("details", { class: "long" }, h("summary", {}, `${text.slice(0, 200)}…`), shown);
  return shown;
}

const line = (path, passage) => h("div", { class: `passage ${passage.speaker}` }, h("span", { class: "speaker" }, SPEAKERS[passage.speaker]), said(path, passage));
const isBrief = (passages) => passages.every((one) => words(one).length < 64 && !words(one).trim().includes("\n"));

/** The prompt; of a branch, or a long conversation, all but its beginning is folded. */
function prompt(path, passages) {
  const replied = passages.findIndex((one) => one.speaker === "assistant");
  if (replied < 0 || passages.length < 4) return passages.map((one) => line(path, one));
  const rest = passages.slice(replied);
  return [
    passages.slice(0, replied).map((one) => line(path, one)),
    h("details", { class: "before" }, h("summary", {}, `${plural(rest.length, "message")} before this attempt went on by itself`), h("div", { class: `turn${isBrief(rest) ? " brief" : ""}` }, h("span"), h("div", { class: "passages" }, rest.map((one) => line(path, one))))),
  ];
}

/** The prompt, then turn by turn what the model wrote and what came back; a short answer stands in the same line. */
function talk(path) {
  const turns = new Map();
  for (const passage of path.passages) turns.set(passage.turn, [...(turns.get(passage.turn) ?? []), passage]);
  return [...turns].map(([number, passages]) => {
    const brief = number > 0 && isBrief(passages);
    return h(
      "div",
      { class: `turn${brief ? " brief" : ""}${number === 0 ? " prompt" : ""}`, id: `turn-${number}` },
      h("span", { class: "number", "aria-hidden": "true" }, number || ""),
      h("div", { class: "passages" }, number ? passages.map((one) => line(path, one)) : prompt(path, passages)),
    );
  });
}

function moments(path, go) {
  if (!path.series.length) return h("p", { class: "soft" }, "V was not computed along this text.");
  const fact = (one, kind, sign) =>
    one && h("button", { type: "button", class: `moment ${kind}`, onclick: () => go(one.position) }, h("span", { "aria-hidden": "true" }, sign), h("span", {}, `greatest ${kind === "down" ? "fall" : "rise"}`), h("b", {}, `${percent(one.before)} → ${percent(one.after)}`), h("small", {}, `at “${one.text.trim().slice(0, 24) || "a blank"}”${path.turns.length > 1 ? `, turn ${one.turn}` : ""}`));
  return h(
    "div",
    { class: "moments" },
    h("p", { class: "ends" }, "V began at ", h("b", {}, percent(path.series[0][1])), " and ended at ", h("b", {}, percent(path.series[path.series.length - 1][1]))),
    fact(path.fall, "down", "▼"),
    fact(path.rise, "up", "▲"),
  );
}

function other(one) {
  const { sign, kind, words: what } = outcome(one);
  const name = one.kind === "branch" ? `branch before turn ${one.turn + 1}` : one.kind === "exam" ? (one.step ? `exam after ${plural(one.step, "step")}` : "exam before practice") : `practice, step ${one.step}`;
  return h("li", {}, h("a", { href: link(one.id), title: what }, h("span", { class: `mark ${kind}`, "aria-label": what }, sign), h("span", {}, name), one.value === null ? "" : h("span", { class: `chip v${shade(one.value)}` }, percent(one.value))));
}

function alternatives(found) {
  const branches = found.others.filter((one) => one.position !== null);
  const rest = found.others.filter((one) => one.position === null && one.kind !== "branch").sort((a, b) => (a.kind === b.kind ? (a.step ?? 0) - (b.step ?? 0) : a.kind === "exam" ? -1 : 1));
  const group = (title, all) =>
    all.length > 0 && h("section", {}, h("h2", {}, title), h("ul", { class: "others" }, all.slice(0, SHOWN).map(other)), all.length > SHOWN && h("details", {}, h("summary", {}, `${all.length - SHOWN} more`), h("ul", { class: "others" }, all.slice(SHOWN).map(other))));
  return [group("Branches from here", branches), group("Other attempts at this task", rest)];
}

const BACK = () => (location.hash = "#/episodes");

export async function showTrace({ id, signal, keys }) {
  const [found, { live }] = await Promise.all([get(episodePath("traces", id)), about()]);
  const text = h("div", { class: "text" });
  const bottom = h("div", { class: "under" });
  const panel = h("div", { class: "moments-place" });
  const voices = h("div", {}, heard(found.said, found.paths[0]?.turns ?? []));
  let path = null;
  let shown = null;
  let current = null;

  function show(position, scroll) {
    if (position === current && !scroll) return;
    current = position;
    for (const old of text.querySelectorAll(".at")) old.classList.remove("at");
    const node = position === null ? null : text.querySelector(`[data-at="${position}"]`);
    node?.classList.add("at");
    if (scroll && node) {
      node.closest("details")?.setAttribute("open", "");
      node.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    }
    shown?.show(position, node?.textContent ?? "");
  }
  const go = (position) => show(position, true);

  function open(number) {
    path = found.paths[number];
    current = null;
    text.replaceChildren(...talk(path));
    shown = path.series.length > 1 ? curve(path, found.others, { pick: (position) => show(position), go }) : null;
    bottom.replaceChildren(...(shown ? [shown.node] : []));
    panel.replaceChildren(moments(path, go));
    for (const [i, tab] of tabs.entries()) tab.setAttribute("aria-pressed", String(i === number));
  }

  const step = (by) => () => {
    const places = [...text.querySelectorAll("[data-at]")].map((node) => Number(node.dataset.at));
    const at = places.indexOf(current);
    go(places[Math.min(Math.max(at < 0 ? 0 : at + by, 0), places.length - 1)] ?? null);
  };
  const leave = (by) => () => {
    const next = order[order.indexOf(id) + by];
    if (order.includes(id) && next) location.hash = link(next);
  };
  const tabs = found.paths.map((one, i) => h("button", { type: "button", class: "tab", onclick: () => open(i) }, i ? `path ${i + 1}` : "path 1"));
  text.addEventListener("pointerover", (event) => {
    const node = event.target.closest("[data-at]");
    if (node) show(Number(node.dataset.at));
  });
  keys({ f: () => path?.fall && go(path.fall.position), ArrowRight: step(1), ArrowLeft: step(-1), j: leave(1), k: leave(-1), Escape: BACK, n: leave(1), p: leave(-1) });

  const again = async () => {
    const now = await get(episodePath("traces", id));
    voices.replaceChildren(heard(now.said, now.paths[0]?.turns ?? []));
    verdict.replaceChildren(...judged(now));
  };
  const judged = (one) => {
    const { sign, kind, words: what } = outcome(one);
    return [h("span", { class: `big-mark ${kind}`, "aria-hidden": "true" }, sign), h("span", { class: kind }, what)];
  };
  const verdict = h("p", { class: "verdict" }, judged(found));
  const form = live ? await feedbackForm(id, found.paths.flatMap((one) => one.turns), again) : h("p", { class: "soft" }, "Feedback is taken where a model is served (journeyman serve).");
  const facts = [["task", found.task], ["began", found.origin === "served" ? moment(found.started) : null], ["versions", found.versions.join(", ")], ["length", `${plural(found.turns, "turn")}, ${plural(found.paths.reduce((sum, one) => sum + one.sampled, 0), "token")} written`], ["broke", found.paths.map((one) => one.error).find(Boolean)]];
  const node = h(
    "article",
    { class: "trace" },
    h("header", {}, h("a", { class: "back", href: "#/episodes" }, "← Episodes"), h("h1", {}, origin(found).join(" · ") || "Episode"), h("code", { class: "id" }, id)),
    h(
      "div",
      { class: "reading" },
      tabs.length > 1 && h("div", { class: "tabs", role: "group", "aria-label": "Paths of this conversation" }, h("span", { class: "soft" }, "It branched:"), tabs),
      h("p", { class: "scale" }, h("span", { class: "ends" }, "expects failure ", h("span", { class: "ramp", "aria-hidden": "true" }, Array.from({ length: 21 }, (_, i) => h("i", { class: `v${i}` }))), " expects success")),
      text,
      bottom,
    ),
    h(
      "aside",
      {},
      h("section", {}, h("h2", {}, "What became of it"), verdict, panel),
      h("section", {}, h("h2", {}, "Feedback"), voices, form),
      alternatives(found),
      h("section", {}, h("h2", {}, "About"), h("dl", { class: "facts" }, facts.filter(([, fact]) => fact).map(([name, fact]) => h("div", {}, h("dt", {}, name), h("dd", {}, fact))))),
    ),
  );
  if (found.paths.length) open(0);
  signal.addEventListener("abort", () => (shown = null));
  return node;
}
