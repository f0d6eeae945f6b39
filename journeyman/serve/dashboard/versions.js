// Versions of the weights, each with the evidence for it.

import { get } from "./api.js";
import { h, s } from "./dom.js";
import { lineage } from "./lineage.js";
import { follow } from "./live.js";
import { rollout } from "./rollout.js";
import { ago, moment, percent, plural } from "./words.js";

const EVERY = 4000;

/** A share with its interval on a line from 0 to 100%. */
function whisker(mean, low, high, label) {
  const x = (share) => 4 + 192 * share;
  return s(
    "svg",
    { viewBox: "0 0 200 16", class: "whisker", role: "img", "aria-label": label },
    s("line", { class: "rail", x1: x(0), x2: x(1), y1: 8, y2: 8 }),
    s("line", { class: "mark wide", x1: x(low), x2: x(high), y1: 8, y2: 8 }),
    s("circle", { class: "mark", cx: x(mean), cy: 8, r: 4.5 }),
  );
}

const share = (what, mean, low, high, basis) => {
  const words = `${percent(mean)} (95%: ${percent(low)} to ${percent(high)})`;
  return h("tr", {}, h("th", { scope: "row" }, what), h("td", {}, h("b", {}, percent(mean)), h("small", {}, ` ${percent(low)} to ${percent(high)}`)), h("td", { class: "draw" }, whisker(mean, low, high, words)), h("td", { class: "soft" }, basis));
};

/** Where a version stands: what it is called, what it gets, and what is wrong with it. */
function tags(one, serving) {
  const tag = (words, kind = "") => h("span", { class: `tag ${kind}` }, words);
  const aliases = one.aliases ?? [];
  const found = aliases.map((alias) => tag(alias, alias === "release" ? "good" : "in"));
  if (one.share > 0 && one.share < 1) found.push(tag(`${percent(one.share)} of the traffic`, "in"));
  if (one.share === 0) found.push(tag("shadow", "in"));
  if (one.version === serving && !aliases.includes("release")) found.push(tag("serving", "in"));
  if (one.quarantine) found.push(tag("quarantine", "bad"));
  if (one.trouble) found.push(tag("cannot be served", "bad"));
  const held = one.verdict && one.verdict.verdict !== "pass";
  return found.length ? found : [tag(held ? "held back" : "earlier")];
}

const VERDICTS = { pass: "passed", fail: "failed", inconclusive: "not decided" };

function card(one, serving) {
  const judged = one.judged > 0;
  const facts = [
    ["known since", one.since && moment(one.since)],
    ["made of", one.parents?.length && one.parents.map((parent) => `version ${parent}`).join(", ")],
    ["learned from", one.learned && plural(one.learned, "entry").replace(/ys$/, "ies")],
    ["gate", one.verdict && `${VERDICTS[one.verdict.verdict]}, ${one.verdict.shown} of ${plural(one.verdict.claims, "claim")} shown`],
    ["from", one.source],
    ["weights", one.digest?.slice(0, 12)],
    ["latest episodes", one.episodes ? plural(one.episodes, "episode") + `, ${plural(one.feedback, "piece")} of feedback` : "none yet"],
    ["mean V at the end", one.value === null || one.value === undefined ? null : percent(one.value)],
  ];
  return h(
    "article",
    { class: "version" },
    h("header", {}, h("h2", {}, `Version ${one.version}`), tags(one, serving)),
    one.quarantine && h("p", { class: "lost" }, one.quarantine),
    one.trouble && h("p", { class: "lost" }, one.trouble),
    h("dl", { class: "facts" }, facts.filter(([, fact]) => fact).map(([name, fact]) => h("div", {}, h("dt", {}, name), h("dd", {}, fact)))),
    judged
      ? h("table", { class: "evidence" }, h("tbody", {}, share("success, says feedback", one.success, one.low, one.high, plural(one.judged, "judged episode"))))
      : h("p", { class: "empty" }, "Nobody has said yet what became of its answers."),
    one.notes?.length > 0 && h("ul", { class: "notes" }, one.notes.map((note) => h("li", {}, h("time", {}, ago(note.at)), ` ${note.text}`))),
  );
}

function exams(job) {
  const rows = [...job.exams].sort((a, b) => a.split.localeCompare(b.split) || a.step - b.step);
  return h(
    "article",
    { class: "version" },
    h("header", {}, h("h2", {}, job.job)),
    h("table", { class: "evidence" }, h("tbody", {}, rows.map((exam) => share(`${exam.split}, ${exam.step ? `after ${plural(exam.step, "step")}` : "before practice"}`, exam.success, exam.low, exam.high, plural(exam.episodes, "attempt"))))),
  );
}

/** The latest rollout, and those before it, folded. */
function rollouts(found) {
  const [latest, ...earlier] = found.rollouts;
  return latest && h(
    "section",
    { "aria-label": "Rollout" },
    rollout(latest),
    earlier.length > 0 && h("details", {}, h("summary", {}, `${plural(earlier.length, "earlier rollout")}`), earlier.map(rollout)),
  );
}

function page(found) {
  const examined = found.jobs.filter((job) => job.exams.length);
  return [
    h("section", { class: "head" }, h("h1", {}, "Versions"), h("p", { class: "soft" }, "Each set of weights, and what speaks for it."), lineage(found.versions), !found.versions.length && h("p", { class: "empty" }, "Nothing has been served from here.")),
    rollouts(found),
    h("section", { "aria-label": "All versions" }, found.versions.map((one) => card(one, found.serving))),
    examined.length > 0 && h("section", {}, h("h2", { class: "over" }, "Exams"), h("p", { class: "soft" }, "On tasks that practice never showed, with 95% intervals."), examined.map(exams)),
  ].filter(Boolean);
}

export async function showVersions({ signal }) {
  let shown = await get("/v1/overview");
  let asked = Date.now();
  const node = h("div", { class: "versions" }, page(shown));
  follow(async () => {
    if (Date.now() - asked < EVERY) return;
    asked = Date.now();
    const found = await get("/v1/overview");
    if (signal.aborted || JSON.stringify(found) === JSON.stringify(shown)) return;
    const open = node.querySelector("details")?.open;
    shown = found;
    node.replaceChildren(...page(found));
    if (open) node.querySelector("details")?.setAttribute("open", "");
  }, signal);
  return node;
}
