"""Episodes as HTML: V as a line and as the colour behind every token, long ones shortened to what matters."""

from __future__ import annotations

import html

from journeyman.report.charts import value_line
from journeyman.report.palette import STEPS, shade
from journeyman.report.stories import Story
from journeyman.report.trace import Moment, Passage, Pieces, Span, View, turns_worth_reading, view
from journeyman.report.words import percent, plural, visible
from journeyman.types import Ending, Outcome, Trajectory

LONG_PROMPT = 700
"""Characters beyond which a prompt is folded."""

esc = html.escape
_ENDINGS = {
    Ending.TERMINATED: "",
    Ending.TRUNCATED: "cut at the limit",
    Ending.STOPPED: "given up by the learner",
    Ending.FAILED: "something broke",
}


def legend() -> str:
    """The scale of V."""
    ramp = "".join(f'<i class="v{i}"></i>' for i in range(STEPS))
    return (
        f'<p class="scale">expects failure <span class="ramp">{ramp}</span> expects success'
        '<span><span class="down">▼</span> greatest fall of V</span>'
        '<span><span class="up">▲</span> greatest rise</span></p>'
    )


def story_html(story: Story, pieces: Pieces | None) -> str:
    """One story: its prompt once, then its episodes, side by side if they are two."""
    seen = [(label, _view(trajectory, pieces)) for label, trajectory in story.episodes]
    task = seen[0][1].trajectory.task
    traces = "".join(_trace(label, one) for label, one in seen)
    return (
        f'<div class="story"><h3>{esc(story.job)}: {esc(story.title)}</h3><p>{esc(story.why)} '
        f"<small>Task <code>{esc(visible(task.id))}</code></small></p>{_prompt(seen[0][1])}"
        f'<div class="{"pair" if len(seen) == 2 else ""}">{traces}</div></div>'
    )


def outcome_words(outcome: Outcome) -> str:
    """How it ended, in words: "solved", "not solved, cut at the limit, reward 0.40"."""
    words = ["solved" if outcome.success else "not solved"]
    if _ENDINGS[outcome.ending]:
        words.append(_ENDINGS[outcome.ending])
    if outcome.error:
        words.append(outcome.error)
    if outcome.reward not in (0.0, 1.0):
        words.append(f"reward {outcome.reward:.2f}")
    return visible(", ".join(words))


def _view(trajectory: Trajectory, pieces: Pieces | None) -> View:
    return view(trajectory, None if pieces is None else pieces(trajectory.tokens.tolist()))


def _trace(label: str, seen: View) -> str:
    outcome = seen.trajectory.outcome
    style = "won" if outcome.success else "lost"
    sign = "✓" if outcome.success else "✗"
    size = f"{plural(len(seen.trajectory.turns), 'turn')}, {plural(int(seen.trajectory.mask.sum()), 'token')} written"
    return (
        f'<article class="trace"><header><b>{esc(label)}</b><span class="{style}">{sign} {esc(outcome_words(outcome))}'
        f"</span><small>{size}</small></header>{value_line(seen)}{_moments(seen)}"
        f'<div class="mono">{_talk(seen)}</div></article>'
    )


def _moments(seen: View) -> str:
    if not seen.series:
        return '<p class="moments">V was not computed for this attempt.</p>'
    parts = [f"V at the start <b>{percent(seen.series[0][1])}</b>"]
    for moment, sign, style in ((seen.rise, "▲", "up"), (seen.fall, "▼", "down")):
        if moment is not None:
            parts.append(
                f'<span class="{style}">{sign}</span> {percent(moment.before)} → <b>{percent(moment.after)}</b> '
                f"at {_quoted(moment)}, turn {moment.turn}"
            )
    parts.append(f"at the end <b>{percent(seen.series[-1][1])}</b>")
    return f'<p class="moments">{" · ".join(parts)}</p>'


def _quoted(moment: Moment) -> str:
    text = moment.text.strip() or "a blank"
    return f"“{esc(text if len(text) <= 24 else text[:23] + '…')}”"


def _prompt(seen: View) -> str:
    shown: list[str] = []
    for passage in seen.passages:
        if passage.turn:
            break
        text = esc(passage.text)
        if len(passage.text) > LONG_PROMPT:
            start = esc(passage.text[:200])
            text = (
                f'{start}…<details class="more"><summary>the whole prompt, {len(passage.text):,} characters</summary>'
                f"{text}</details>"
            )
        shown.append(f'<div class="prompt mono">{text}</div>')
    return "".join(shown)


def _talk(seen: View) -> str:
    keep = turns_worth_reading(seen)
    turns: dict[int, list[Passage]] = {}
    for passage in seen.passages:
        if passage.turn:
            turns.setdefault(passage.turn, []).append(passage)
    rows: list[str] = []
    folded: list[str] = []
    for turn, passages in turns.items():
        row = _turn(seen, turn, passages, numbered=len(turns) > 1)
        if turn in keep:
            rows += _fold(folded)
            folded = []
            rows.append(row)
        else:
            folded.append(row)
    return "".join([*rows, *_fold(folded)])


def _fold(rows: list[str]) -> list[str]:
    if not rows:
        return []
    return [f'<details class="rest"><summary>{plural(len(rows), "more turn")}</summary>{"".join(rows)}</details>']


def _turn(seen: View, turn: int, passages: list[Passage], numbered: bool) -> str:
    parts: list[str] = []
    for passage in passages:
        inside = "".join(_span(seen, span) for span in passage.spans)
        if passage.speaker == "assistant":
            parts.append(f'<span class="reply">{inside}</span>')
        else:
            block = "\n" if "\n" in passage.text.strip() else " "
            parts.append(f'{block}<span class="said">→</span> <span class="seen">{inside}</span>')
    return f'<div class="turn"><span class="n">{turn if numbered else ""}</span><span>{"".join(parts)}</span></div>'


def _span(seen: View, span: Span) -> str:
    text = esc(span.text)
    if span.value is None:
        return text
    style = f"v{shade(span.value)}"
    if seen.fall is not None and span.position == seen.fall.position:
        style += " fell"
    if seen.rise is not None and span.position == seen.rise.position:
        style += " rose"
    return f'<i class="{style}" title="V {percent(span.value)}">{text}</i>'
