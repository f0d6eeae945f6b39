// Numbers, times and outcomes as people read them: as report/words.py has them.

export const DASH = "\u2013";

/** 0.914 -> "91%"; the ends keep a digit where rounding would claim a certainty. */
export function percent(share) {
  if (share === null || share === undefined || !Number.isFinite(share)) return DASH;
  const scaled = 100 * share;
  const near = (scaled >= 99.5 && scaled < 100) || (scaled >= 0.05 && scaled < 0.5);
  return `${near ? Math.min(scaled, 99.9).toFixed(1) : scaled.toFixed(0)}%`;
}

/** The number of V's shade (report/palette.py). */
export const shade = (value) => Math.round(Math.min(Math.max(value, 0), 1) * 20);

export const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** 12500 -> "12.5k". */
export function short(number) {
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (number >= size) return `${Number((number / size).toPrecision(3))}${letter}`;
  return `${Number(number.toPrecision(3))}`;
}

/** "just now", "5 min ago", "3 h ago", then the date. */
export function ago(seconds, now = Date.now() / 1000) {
  if (seconds === null || seconds === undefined) return "";
  const past = now - seconds;
  if (past < 45) return "just now";
  if (past < 5400) return `${Math.max(1, Math.round(past / 60))} min ago`;
  if (past < 129600) return `${Math.round(past / 3600)} h ago`;
  return new Date(1000 * seconds).toISOString().slice(0, 10);
}

export const moment = (seconds) =>
  seconds ? new Date(1000 * seconds).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }) : DASH;

const ENDINGS = {
  terminated: "",
  truncated: "cut at the limit",
  stopped: "stopped by the learner",
  failed: "something broke",
};

/** What became of an episode: a sign, a class, and words. */
export function outcome({ reward, ending }) {
  const more = ENDINGS[ending] ? `, ${ENDINGS[ending]}` : "";
  if (ending === "failed") return { sign: "!", kind: "lost", words: "failed" };
  if (reward === null || reward === undefined) return { sign: "·", kind: "open", words: `not judged yet${more}` };
  if (reward >= 1 - 1e-6) return { sign: "✓", kind: "won", words: `success${more}` };
  const amount = reward === 0 ? "" : `, reward ${Number(reward.toFixed(2))}`;
  return { sign: "✗", kind: "lost", words: `no success${amount}${more}` };
}
