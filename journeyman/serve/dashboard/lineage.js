// Which version was made of which: the latest ones in a row, with an arc from each parent.

import { h, s } from "./dom.js";

const MOST = 12;
const [APART, HIGH] = [76, 24];

/** A drawing of the registry's versions; null where there is nothing to see. */
export function lineage(versions) {
  const known = versions.filter((one) => one.parents).sort((a, b) => a.version - b.version).slice(-MOST);
  if (known.length < 2) return null;
  const at = new Map(known.map((one, i) => [one.version, 30 + i * APART]));
  const arcs = known.flatMap((one) => one.parents.filter((parent) => at.has(parent)).map((parent) => [at.get(parent), at.get(one.version)]));
  const rise = Math.max(...arcs.map(([from, to]) => Math.min((to - from) / 4, 70)), 0);
  const y = rise + 26;
  const lines = arcs.map(([from, to]) =>
    s("path", { class: "bond", d: to - from === APART ? `M${from} ${y}H${to}` : `M${from} ${y}Q${(from + to) / 2} ${y - 2 * Math.min((to - from) / 4, 70)} ${to} ${y}` }),
  );
  const nodes = known.map((one) => {
    const state = one.quarantine !== null ? "bad" : one.aliases.includes("release") ? "release" : one.share !== null ? "tried" : "";
    const word = one.quarantine !== null ? "quarantine" : one.aliases.includes("release") ? "release" : one.share === 0 ? "shadow" : one.aliases[0] ?? "";
    const x = at.get(one.version);
    return s("g", { class: `node ${state}` }, s("circle", { cx: x, cy: y, r: 15 }), s("text", { x, y: y + 5 }, one.version), s("text", { class: "state", x, y: y + 36 }, word));
  });
  const width = 60 + (known.length - 1) * APART;
  const words = known.map((one) => `${one.version}${one.parents.length ? ` of ${one.parents.join(" and ")}` : ""}`).join(", ");
  const high = y + HIGH + 20;
  const figure = h("figure", { class: "lineage" }, s("svg", { viewBox: `0 0 ${width} ${high}`, role: "img", "aria-label": `Versions and what they were made of: ${words}` }, lines, nodes));
  figure.style.maxWidth = `${width}px`;
  return figure;
}
