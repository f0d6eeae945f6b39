// A rollout: its stages as steps, the numbers of the last decision, and every decision before.

import { h, s } from "./dom.js";
import { DASH, ago, moment, percent, plural } from "./words.js";

const step = (share) => (share === 0 ? "shadow" : share === 1 ? "full" : percent(share));
const KINDS = { running: "in", paused: "held", released: "good", "rolled back": "bad" };
const SAID = { begin: "begun", advance: "on", "roll back": "back", pause: "paused", resume: "resumed" };

/** log of an e-value -> "34", "1e6"; null is beyond all numbers. */
export function evidence(log) {
  if (log === null || log === undefined) return "proof";
  if (log >= Math.log(1000)) return `1e${Math.floor(log / Math.LN10)}`;
  const value = Math.exp(log);
  return value < 10 ? `${Number(value.toPrecision(2))}` : value.toFixed(0);
}

function steps({ stages, stage, phase }) {
  const over = phase === "released" || phase === "rolled back";
  return h(
    "ol",
    { class: "steps", "aria-label": "Stages" },
    stages.map((share, i) => {
      const kind = i < stage || phase === "released" ? "done" : i > stage ? "ahead" : phase === "rolled back" ? "back" : phase === "paused" ? "now held" : "now";
      const words = { done: "passed", ahead: "ahead", back: "rolled back here", now: "now", "now held": "paused here" }[kind];
      return h(
        "li",
        { class: kind, "aria-current": i === stage && !over ? "step" : null },
        h("i", { "aria-hidden": "true" }),
        h("b", {}, step(share)),
        h("small", {}, words),
      );
    }),
  );
}

/** Candidate and release on one line, from the least to the most of both (or from 0 to 1, where they lie within). */
function pair({ candidate, release }) {
  if (candidate === null || release === null) return null;
  const [low, high] = [Math.min(0, candidate, release), Math.max(1, candidate, release)];
  const x = (value) => 8 + (184 * (value - low)) / (high - low);
  return s(
    "svg",
    { viewBox: "0 0 200 16", class: "whisker", role: "img", "aria-label": `candidate ${candidate.toFixed(3)}, release ${release.toFixed(3)}` },
    s("line", { class: "rail", x1: 8, x2: 192, y1: 8, y2: 8 }),
    s("line", { class: "apart", x1: x(candidate), x2: x(release), y1: 8, y2: 8 }),
    s("circle", { class: "theirs", cx: x(release), cy: 8, r: 4.5 }),
    s("circle", { class: "mark", cx: x(candidate), cy: 8, r: 4.5 }),
  );
}

const figure = (value) => (value === null || value === undefined ? DASH : value.toFixed(3));

function readings(found) {
  const heads = ["guardrail", "candidate", "release", "", "pairs", "e for", "e against"];
  return h(
    "table",
    { class: "evidence readings" },
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col", class: head ? null : "draw" }, head)))),
    h("tbody", {}, found.map((one) => h(
      "tr",
      {},
      h("th", { scope: "row" }, one.name),
      h("td", { "data-label": "candidate" }, h("b", { class: "ours" }, figure(one.candidate))),
      h("td", { "data-label": "release" }, figure(one.release)),
      h("td", { class: "draw" }, pair(one)),
      h("td", { "data-label": "pairs" }, one.pairs.toLocaleString("en")),
      h("td", { "data-label": "e for" }, evidence(one.shown)),
      h("td", { "data-label": "e against" }, evidence(one.refuted)),
    ))),
  );
}

function power({ tokens, seconds, tools }) {
  const words = tools.includes("*") ? "all tools" : tools.length ? `the tools ${tools.join(", ")}` : "no tools";
  return `Its evidence allows ${plural(tokens, "token")} and ${seconds.toLocaleString("en")} s an answer, ${words}.`;
}

const decision = (one) =>
  h(
    "li",
    { class: one.what.replace(" ", "-") },
    h("time", { datetime: new Date(1000 * one.at).toISOString(), title: moment(one.at) }, ago(one.at)),
    h("b", {}, SAID[one.what] ?? one.what),
    h("span", {}, one.what === "begin" ? `at ${step(one.share)}` : one.why),
  );

/** One rollout, whole. */
export function rollout(one) {
  const read = [...one.decisions].reverse().find((made) => made.readings.length);
  const last = one.decisions[one.decisions.length - 1];
  const open = one.phase === "running" || one.phase === "paused";
  const watched = one.guardrails.map(({ name }) => name).join(", ");
  return h(
    "article",
    { class: "version rollout", "data-phase": one.phase },
    h("header", {}, h("h2", {}, `Version ${one.candidate} after version ${one.release}`), h("span", { class: `tag ${KINDS[one.phase]}` }, one.phase)),
    steps(one),
    last.what !== "begin" && h("p", { class: "why" }, last.why),
    open && h("p", { class: "soft" }, `${one.share ? `It has ${percent(one.share)} of the traffic.` : "It answers unseen what the release is asked."} Watched: ${watched}, in at least ${plural(one.least, "pair")}. ${power(one.power)}`),
    read && [h("h3", {}, read === last ? "What the last decision rests on" : `What the last decision by numbers rests on (${ago(read.at)})`), readings(read.readings)],
    h("h3", {}, "Decisions"),
    h("ol", { class: "decisions" }, [...one.decisions].reverse().map(decision)),
  );
}
