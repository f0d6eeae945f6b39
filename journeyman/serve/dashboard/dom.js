// Elements, made without markup: whatever a model wrote becomes a text node and nothing else.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** h("p", {class: "soft", onclick: f}, "text", child, ...): an element of HTML. */
export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);

/** The same of SVG. */
export const s = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

const policy = window.trustedTypes?.createPolicy("charts", { createHTML: (text) => text });
const DRAWN = new Set(["svg", "g", "line", "polyline", "polygon", "circle", "rect", "text", "title"]);

/** A chart that the server drew (report/charts.py). Only shapes and texts are let through. */
export function chart(text) {
  const parsed = new DOMParser().parseFromString(policy ? policy.createHTML(text) : text, "text/html");
  const drawing = parsed.body.firstElementChild;
  for (const node of [drawing, ...drawing.querySelectorAll("*")]) {
    if (!DRAWN.has(node.tagName.toLowerCase())) node.remove();
    for (const { name } of [...node.attributes])
      if (name.startsWith("on") || name === "style" || name.endsWith("href")) node.removeAttribute(name);
  }
  return document.importNode(drawing, true);
}

let timer = 0;

/** A word to whoever looks, heard by screen readers, too. */
export function tell(text, wrong = false) {
  const place = document.getElementById("said");
  place.textContent = text;
  place.classList.toggle("wrong", wrong);
  place.classList.add("shown");
  clearTimeout(timer);
  timer = setTimeout(() => place.classList.remove("shown"), 5000);
}
