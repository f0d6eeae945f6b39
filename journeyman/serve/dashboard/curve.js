// V along an episode, under its text: the line coloured by V, turns as bands, the greatest fall and rise marked, and
// where branches went their own way. Text and line show each other's place.

import { h, s } from "./dom.js";
import { outcome, percent, shade } from "./words.js";

const FRAME = { left: 40, right: 12, top: 18, bottom: 18, height: 150 };

/** The last point at or before a position; the points are in order. */
function nearest(series, position) {
  let found = 0;
  for (let low = 0, high = series.length - 1; low <= high; ) {
    const middle = (low + high) >> 1;
    if (series[middle][0] <= position) [found, low] = [middle, middle + 1];
    else high = middle - 1;
  }
  return found;
}

/**
 * The curve of a path.
 * `pick(position)` is called when somebody points at the curve, `go(position)` when they press it.
 * Returns {node, show(position)}.
 */
export function curve(path, others, { pick, go }) {
  const { series, fall, rise, turns } = path;
  const readout = h("output", { class: "readout" }, "Point at the text or at the line");
  const drawing = h("div", { class: "drawing" });
  const node = h("div", { class: "curve" }, h("div", { class: "readline" }, h("span", { class: "soft" }, "V along the text"), readout), drawing);
  const [first, last] = [series[0][0], series[series.length - 1][0]];
  let cursor = null;
  let place = { x: () => 0, y: () => 0 };

  function draw(width) {
    const { left, right, top, bottom, height } = FRAME;
    const x = (position) => left + ((position - first) / Math.max(last - first, 1)) * (width - left - right);
    const y = (value) => top + (1 - Math.min(Math.max(value, 0), 1)) * (height - top - bottom);
    place = { x, y };
    const bands = turns.filter((_, i) => i % 2).map((turn) => {
      const [from, to] = [x(Math.max(turn.start - 1, first)), x(Math.min(turn.stop, last))];
      return s("rect", { class: "turnband", x: from, y: top, width: Math.max(to - from, 1), height: height - top - bottom });
    });
    const grid = [0, 0.5, 1].map((value) => [
      s("line", { class: value === 0.5 ? "base" : "gridline", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      s("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, percent(value)),
    ]);
    const stops = [0, 4, 8, 10, 12, 16, 20].map((i) => s("stop", { offset: 1 - i / 20, class: `b${i}` }));
    const gradient = s("linearGradient", { id: "v-line", gradientUnits: "userSpaceOnUse", x1: 0, x2: 0, y1: top, y2: height - bottom }, ...stops.reverse());
    const points = series.map(([position, value]) => `${x(position).toFixed(1)},${y(value).toFixed(1)}`);
    const seen = series.length * 14 < width ? series : []; // beads that touch would hide the line
    const beads = seen.map(([position, value]) => s("circle", { class: `bead b${shade(value)}`, cx: x(position), cy: y(value), r: 3.2 }));
    const moments = [[fall, "fall"], [rise, "rise"]].filter(([one]) => one).map(([one, kind]) => {
      const [cx, cy] = [x(one.position), y(one.after)];
      const [tip, foot] = kind === "fall" ? [cy - 6, cy - 16] : [cy + 6, cy + 16];
      return s("polygon", { class: kind, points: `${cx - 6},${foot} ${cx + 6},${foot} ${cx},${tip}` }, s("title", {}, `greatest ${kind}: ${percent(one.before)} to ${percent(one.after)}`));
    });
    const forks = others.filter((one) => one.position !== null).map((one) => {
      const { kind, words } = outcome(one);
      const number = others.filter((other) => other.position === one.position).indexOf(one);
      return s("circle", { class: `fork ${kind}`, cx: x(one.position) + 7 * number, cy: top - 10, r: 3.2 }, s("title", {}, `a branch went on from here: ${words}`));
    });
    cursor = s("g", { class: "cursor", visibility: "hidden" }, s("line", { y1: top - 4, y2: height - bottom + 4 }), s("circle", { r: 5.5 }));
    const label = `V from ${percent(series[0][1])} to ${percent(series[series.length - 1][1])}` + (fall ? `; its greatest fall, from ${percent(fall.before)} to ${percent(fall.after)}, in turn ${fall.turn}` : "");
    drawing.replaceChildren(
      s(
        "svg",
        { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
        s("defs", {}, gradient),
        bands,
        grid,
        s("polyline", { class: "vline", points: points.join(" ") }),
        beads,
        moments,
        forks,
        cursor,
      ),
    );
  }

  function at(event) {
    const box = drawing.getBoundingClientRect();
    const { left, right } = FRAME;
    const inside = (event.clientX - box.left - left) / Math.max(box.width - left - right, 1);
    return Math.round(first + Math.min(Math.max(inside, 0), 1) * (last - first));
  }
  drawing.addEventListener("pointermove", (event) => pick(at(event)));
  drawing.addEventListener("click", (event) => go(at(event)));
  new ResizeObserver(([entry]) => entry.contentRect.width > 40 && draw(Math.round(entry.contentRect.width))).observe(drawing);

  /** Show the place of a token; null: none. */
  function show(position, words = "") {
    if (!cursor) return;
    cursor.setAttribute("visibility", position === null || position < first ? "hidden" : "visible");
    if (position === null || position < first) return;
    const [known, value] = series[nearest(series, position)];
    const [line, dot] = cursor.children;
    for (const name of ["x1", "x2"]) line.setAttribute(name, place.x(known));
    dot.setAttribute("cx", place.x(known));
    dot.setAttribute("cy", place.y(value));
    dot.setAttribute("class", `b${shade(value)}`);
    readout.replaceChildren(h("span", { class: `chip v${shade(value)}` }, percent(value)), words ? h("q", {}, words.trim() || "a blank") : "", h("span", { class: "soft" }, `token ${known}`));
  }
  return { node, show };
}
