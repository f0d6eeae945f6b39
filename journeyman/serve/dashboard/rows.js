// Episodes as rows of a list: V, what was asked, what became of it.

import { h } from "./dom.js";
import { ago, outcome, percent, plural, shade } from "./words.js";

export const link = (id) => `#/episode/${encodeURIComponent(id)}`;

const exam = (id) => /^exam-(\d+)-/.exec(id)?.[1];

/** Where an episode comes from, in a few words. */
export function origin(one) {
  const step = exam(one.id);
  const parts = [one.job || (one.origin === "served" ? "served" : "")];
  if (one.origin === "learning") {
    if (one.split && one.split !== "train") parts.push(one.split);
    parts.push(step === undefined ? `practice, step ${one.step}` : step === "000000" ? "exam before practice" : `exam after ${Number(step)} steps`);
    if (/-b\d+-m\d+$/.test(one.id)) parts.push("branch");
  } else if (one.versions.length) parts.push(`version ${one.versions.join(", ")}`);
  return parts.filter(Boolean);
}

/** V as a coloured chip. */
export const chip = (value) =>
  value === null || value === undefined
    ? h("span", { class: "chip none", title: "V was not computed" }, "–")
    : h("span", { class: `chip v${shade(value)}`, title: `V at the end: ${percent(value)}` }, percent(value));

export function mark(one) {
  const { sign, kind, words } = outcome(one);
  return h("span", { class: `mark ${kind}` }, h("span", { "aria-hidden": "true" }, sign), h("span", { class: "said-so" }, ` ${words}`));
}

export function row(one) {
  const facts = [...origin(one), plural(one.turns, "turn"), ago(one.started)].filter(Boolean);
  return h(
    "a",
    { class: "row", href: link(one.id), "data-id": one.id },
    chip(one.value),
    h("span", { class: "asked" }, h("span", { class: "opening" }, one.opening || one.id), h("span", { class: "facts" }, facts.join(" · "))),
    one.feedback ? h("span", { class: "heard", title: plural(one.feedback, "piece") + " of feedback" }, `${one.feedback} heard`) : h("span"),
    mark(one),
  );
}

/** A list in which j and k move, and Enter opens. */
export function list(label) {
  const node = h("div", { class: "rows", role: "list", "aria-label": label });
  let at = -1;
  const move = (by) => {
    const rows = [...node.querySelectorAll("a.row")];
    if (!rows.length) return;
    const focused = rows.indexOf(document.activeElement);
    at = Math.min(Math.max((focused >= 0 ? focused : at) + by, 0), rows.length - 1);
    rows[at].focus();
    rows[at].scrollIntoView({ block: "nearest" });
  };
  return {
    node,
    fill(episodes) {
      const focused = node.contains(document.activeElement) && document.activeElement.dataset.id;
      node.replaceChildren(...episodes.map((one) => h("div", { role: "listitem" }, row(one))));
      const rows = [...node.querySelectorAll("a.row")];
      if (focused) (rows.find((one) => one.dataset.id === focused) ?? rows[0])?.focus();
    },
    keys: { j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1) },
  };
}
