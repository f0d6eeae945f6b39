// What people say of an episode: what is kept, and a form to say more.

import { get, post } from "./api.js";
import { h, s, tell } from "./dom.js";
import { ago } from "./words.js";

/** A name for what is about to be said: the same again, after a failure, is kept once. */
const once = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const THUMB = "M7 11v9H3v-9zM7 11l4-8c1.7 0 2.6 1.2 2.2 2.9L12.6 9H18c1.4 0 2.3 1.2 2 2.5l-1.6 6.8c-.2 1-1.1 1.7-2.1 1.7H7";
const thumb = () => s("svg", { viewBox: "0 0 24 24", width: 22, height: 22, "aria-hidden": "true" }, s("path", { d: THUMB }));

function piece(one, turns) {
  const value = one.value === null ? null : h("b", {}, `${one.metric} ${one.value}`);
  const where = one.turn === null ? "the episode" : `turn ${turns.findIndex((turn) => turn.id === one.turn) + 1 || "?"}`;
  return h(
    "li",
    {},
    h("p", {}, value, value && one.comment ? ": " : "", one.comment),
    one.correction !== null && h("div", { class: "correction" }, h("small", {}, "should have been"), h("pre", {}, one.correction)),
    one.preferred_to && h("p", {}, "preferred to ", h("code", {}, one.preferred_to)),
    one.explanation && h("p", { class: "soft" }, one.explanation),
    h("small", {}, [one.source, where, one.user, ...one.tags, ago(one.at)].filter(Boolean).join(" · ")),
  );
}

/** The list of what was said. */
export function heard(said, turns) {
  return h("ul", { class: "said" }, said.length ? said.map((one) => piece(one, turns)) : h("li", { class: "empty" }, "Nobody has said anything yet."));
}

/** A form; `kept()` is called when the server has it on disk. */
export async function feedbackForm(id, turns, kept) {
  const metrics = (await get("/v1/metrics")).data;
  let thumbs = null;
  let name = once();
  const status = h("p", { class: "status", role: "status" });
  const buttons = [[1, "Good"], [0, "Bad"]].map(([value, name]) =>
    h("button", { type: "button", class: value ? "thumb up" : "thumb down-thumb", "aria-pressed": "false", "aria-label": name, title: name, onclick: () => press(thumbs === value ? null : value) }, thumb()),
  );
  const number = h("input", { type: "number", name: "value", step: "any", id: "fb-value", placeholder: "0 to 1", inputmode: "decimal" });
  const metric = h("select", { name: "metric", id: "fb-metric" }, metrics.map((one) => h("option", { value: one.name }, one.name)));
  const about = h("select", { name: "turn", id: "fb-turn" }, h("option", { value: "" }, "the episode"), turns.map((turn, i) => h("option", { value: turn.id }, `turn ${i + 1}`)));
  const comment = h("textarea", { name: "comment", id: "fb-comment", rows: 2, maxlength: 100000 });
  const correction = h("textarea", { name: "correction", id: "fb-correction", rows: 3, maxlength: 100000 });

  function press(value) {
    thumbs = value;
    name = once();
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(thumbs === 1 - i)));
    number.value = value ?? "";
  }

  function chosen() {
    return metrics.find((one) => one.name === metric.value);
  }

  function fit() {
    const { low, high, type, level } = chosen();
    number.placeholder = type === "boolean" ? "0 or 1" : low !== null && high !== null ? `${low} to ${high}` : "a number";
    if (level === "episode") about.value = "";
    else if (!about.value && turns.length) about.value = turns[turns.length - 1].id;
  }
  metric.addEventListener("change", fit);
  number.addEventListener("input", () => {
    thumbs = null;
    for (const button of buttons) button.setAttribute("aria-pressed", "false");
  });

  async function submit(event) {
    event.preventDefault();
    const given = number.value === "" ? null : Number(number.value);
    const value = given !== null && chosen().type === "boolean" ? given > 0 : given;
    const body = { episode_id: id, source: "human", metric: metric.value, idempotency_key: name };
    if (value !== null) body.value = value;
    if (about.value) body.turn_id = about.value;
    if (comment.value.trim()) body.comment = comment.value.trim();
    if (correction.value) body.correction = correction.value;
    send.disabled = true;
    status.textContent = "";
    try {
      const answer = await post("/v1/feedback", body);
      form.reset();
      press(null);
      fit();
      status.textContent = `Stored: it is on the server's disk as ${answer.id}.`;
      tell("Feedback stored");
      await kept();
    } catch (error) {
      status.textContent = `Not stored: ${error.message}`;
      tell("Feedback was not stored", true);
    } finally {
      send.disabled = false;
    }
  }

  const send = h("button", { class: "main" }, "Keep it");
  const form = h(
    "form",
    { class: "feedback", onsubmit: submit, oninput: () => (name = once()), "aria-label": "Feedback" },
    h("div", { class: "thumbs", role: "group", "aria-label": "Good or bad" }, buttons, h("label", { for: "fb-value", class: "hidden" }, "Number"), number),
    h("label", { for: "fb-comment" }, "Comment"),
    comment,
    h(
      "details",
      {},
      h("summary", {}, "Correction, metric, turn"),
      h("label", { for: "fb-correction" }, "The answer as it should have been"),
      correction,
      h("div", { class: "two" }, h("div", {}, h("label", { for: "fb-metric" }, "Metric"), metric), h("div", {}, h("label", { for: "fb-turn" }, "About"), about)),
    ),
    h("p", { class: "actions" }, send),
    status,
  );
  fit();
  return form;
}
