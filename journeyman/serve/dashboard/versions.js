// Versions of the weights, each with the evidence for it.

import { get } from "./api.js";
import { h, s } from "./dom.js";
import { moment, percent, plural } from "./words.js";

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

function card(one, serving) {
  const judged = one.judged > 0;
  const facts = [
    ["served since", one.since && moment(one.since)],
    ["from", one.source],
    ["weights", one.digest?.slice(0, 12)],
    ["latest episodes", one.episodes ? plural(one.episodes, "episode") + `, ${plural(one.feedback, "piece")} of feedback` : "none yet"],
    ["mean V at the end", one.value === null || one.value === undefined ? null : percent(one.value)],
  ];
  return h(
    "article",
    { class: "version" },
    h("header", {}, h("h2", {}, `Version ${one.version}`), one.version === serving ? h("span", { class: "tag in" }, "serving") : h("span", { class: "tag" }, "earlier")),
    h("dl", { class: "facts" }, facts.filter(([, fact]) => fact).map(([name, fact]) => h("div", {}, h("dt", {}, name), h("dd", {}, fact)))),
    judged
      ? h("table", { class: "evidence" }, h("tbody", {}, share("success, says feedback", one.success, one.low, one.high, plural(one.judged, "judged episode"))))
      : h("p", { class: "empty" }, "Nobody has said yet what became of its answers."),
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

export async function showVersions() {
  const found = await get("/v1/overview");
  const examined = found.jobs.filter((job) => job.exams.length);
  return h(
    "div",
    { class: "versions" },
    h("section", {}, h("h1", {}, "Versions"), h("p", { class: "soft" }, "Each set of weights, and what speaks for it."), found.versions.map((one) => card(one, found.serving)), !found.versions.length && h("p", { class: "empty" }, "Nothing has been served from here.")),
    examined.length > 0 && h("section", {}, h("h2", { class: "over" }, "Exams"), h("p", { class: "soft" }, "On tasks that practice never showed, with 95% intervals."), examined.map(exams)),
  );
}
