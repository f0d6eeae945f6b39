// The learner at a glance: what it does now, how it learned, what it knew.

import { get } from "./api.js";
import { chart, h, s } from "./dom.js";
import { follow } from "./live.js";
import { list } from "./rows.js";
import { percent, plural, short } from "./words.js";

const SPAN = 10;
const SPANS = 180;

/** The last half hour as one number per span, 0 where nothing was done. */
function spread(traffic, name) {
  const last = Math.floor(Date.now() / 1000 / SPAN) * SPAN;
  const known = new Map(traffic.map((one) => [one.at, one[name] ?? 0]));
  return Array.from({ length: SPANS }, (_, i) => known.get(last - (SPANS - 1 - i) * SPAN) ?? 0);
}

const total = (amounts, spans) => amounts.slice(-spans).reduce((sum, amount) => sum + amount, 0);

function spark(amounts, label) {
  const [width, height] = [240, 44];
  const most = Math.max(...amounts, 1e-9);
  const points = amounts.map((amount, i) => `${((i / (SPANS - 1)) * width).toFixed(1)},${(height - 2 - (amount / most) * (height - 6)).toFixed(1)}`);
  return s(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": label },
    s("polygon", { class: "band", points: `0,${height} ${points.join(" ")} ${width},${height}` }),
    s("polyline", { class: "line", points: points.join(" ") }),
  );
}

function tiles(traffic) {
  const answers = spread(traffic, "answers");
  const tokens = spread(traffic, "completion_tokens");
  const read = spread(traffic, "prompt_tokens");
  const feedback = spread(traffic, "feedback");
  const valued = spread(traffic, "valued");
  const mean = total(spread(traffic, "value"), SPANS) / total(valued, SPANS);
  const sums = spread(traffic, "value");
  const value = sums.map((sum, i) => (valued[i] ? sum / valued[i] : 0));
  const rate = total(tokens, 6) / 60;
  const shown = [
    ["answers a minute", short(total(answers, 6)), `${short(total(answers, SPANS))} in half an hour`, answers],
    ["tokens a second", rate < 10 ? rate.toFixed(1) : short(rate), `${short(total(read, SPANS))} read, ${short(total(tokens, SPANS))} written in half an hour`, tokens],
    ["mean value of answers", percent(mean), "the chance of success that it expects", value],
    ["pieces of feedback", short(total(feedback, SPANS)), "in half an hour", feedback],
  ];
  return shown.map(([what, number, more, amounts]) =>
    h("div", { class: "tile" }, h("b", {}, number), h("span", {}, what), spark(amounts, `${what}, the last half hour`), h("small", {}, more)),
  );
}

function figure(title, svg, caption) {
  return svg && h("figure", {}, h("h3", {}, title), chart(svg), h("figcaption", {}, caption));
}

const BRIER = (brier) => (brier === null || brier === undefined ? "" : ` Brier score ${brier.toFixed(3)}; 0 is perfect, 0.25 is always saying 50%.`);

function known({ early, calibration, brier }, whose) {
  return [
    figure("How early it knew", early, `How often V ranks ${whose} that will succeed above one that will fail, after reading a part of both. Bars: 95% intervals.`),
    figure("Does V mean what it says?", calibration, `On the dashed line, of those given 70% half-way just 70% succeed.${BRIER(brier)}`),
  ];
}

function learned(job) {
  const exams = job.exams.filter((exam) => exam.split === job.split);
  const [first, last] = [exams[0], exams[exams.length - 1]];
  const change = first && h(
    "p",
    { class: "change" },
    h("span", { class: "was" }, percent(first.success)),
    last !== first && [h("span", { class: "arrow", "aria-label": "to" }, "→"), h("b", {}, percent(last.success))],
    h("span", { class: "soft" }, ` solved of ${plural(last.tasks, "task")} of the split ${job.split}, 95%: ${percent(last.low)} to ${percent(last.high)}`),
  );
  return h(
    "section",
    { class: "job" },
    h("h2", {}, job.job),
    change,
    h("div", { class: "figures" }, figure("Learning curve", job.learning, "Share of attempts that solved the task. Dots: steps of practice. Black: exams on tasks it never practised, with 95% intervals."), known(job, "an attempt")),
  );
}

const STATES = { running: "It is learning right now", interrupted: "The run was interrupted", finished: "The run is finished" };

export async function showOverview({ signal, keys }) {
  const [found, latest] = await Promise.all([get("/v1/overview"), get("/v1/episodes", { limit: 8 })]);
  const newest = list("Latest episodes");
  newest.fill(latest.data);
  keys(newest.keys);
  const now = h("div", { class: "tiles" }, tiles([]));
  follow(async ({ traffic, data }) => {
    if (found.live) now.replaceChildren(...tiles(traffic));
    if (data.length && !newest.node.contains(document.activeElement)) newest.fill((await get("/v1/episodes", { limit: 8 })).data);
  }, signal);
  const state = found.state && `${STATES[found.state]}, ${found.step} of ${plural(found.steps ?? found.step, "step")} done.`;
  const served = found.live ? `Version ${found.serving} answers here.` : "";
  return h(
    "div",
    {},
    h("section", { class: "hero" }, h("p", { class: "eyebrow" }, found.live ? "Serving" : "Run"), h("h1", {}, found.name), h("p", { class: "lead" }, [served, found.told].filter(Boolean).join(" ")), state && h("p", { class: "soft" }, state)),
    found.live && h("section", { "aria-label": "Traffic" }, now),
    found.judgement && h("section", { class: "job" }, h("h2", {}, "What it knew of its answers"), h("p", { class: "soft" }, `The latest ${plural(found.judgement.episodes, "episode")} that feedback has judged.`), h("div", { class: "figures" }, known(found.judgement, "an answer"))),
    found.jobs.map(learned),
    h("section", {}, h("h2", {}, "Latest episodes"), latest.data.length ? newest.node : h("p", { class: "empty" }, "None yet."), h("p", {}, h("a", { href: "#/episodes" }, "All episodes"))),
  );
}
