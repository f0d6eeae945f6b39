"""Episodes as HTML: V as a line and as the colour behind every token, long ones shortened to what matters."""

from __future__ import annotations

from collections.abc import Sequence

from journeyman.report.charts import value_line
from journeyman.report.palette import STEPS, shade
from journeyman.report.stories import Story
from journeyman.report.trace import END, Moment, Passage, Pieces, Span, View, turns_worth_reading, view
from journeyman.report.words import esc, percent, plural, visible
from journeyman.types import Ending, Outcome, Trajectory

LONG_PROMPT = 700
"""Characters beyond which a prompt is folded."""

_SINGLES = '<div class="pair">'
_ENDINGS = {
    Ending.TERMINATED: "",
    Ending.TRUNCATED: "cut at the limit",
    Ending.STOPPED: "stopped by the learner",
    Ending.FAILED: "something broke",
}


def legend() -> str:
    """The scale of V."""
    ramp = "".join(f'<i class="v{i}"></i>' for i in range(STEPS))
    return (
        f'<p class="scale"><span class="ends">expects failure <span class="ramp">{ramp}</span> '
        "expects success</span>"
        '<span><span class="down">▼</span> greatest fall of V</span>'
        '<span><span class="up">▲</span> greatest rise</span></p>'
    )


def stories_html(stories: Sequence[Story], pieces: Pieces | None) -> str:
    """Stories of two episodes take the page's width, those of one stand side by side."""
    parts: list[str] = []
    for story in stories:
        single = len(story.episodes) == 1
        if single and not (parts and parts[-1].startswith(_SINGLES)):
            parts.append(_SINGLES)
        told = _story(story, pieces)
        parts = [*parts[:-1], parts[-1] + told] if single else [*parts, told]
    return "".join(f"{part}</div>" if part.startswith(_SINGLES) else part for part in parts)


def _story(story: Story, pieces: Pieces | None) -> str:
    seen = [(label, _view(trajectory, pieces)) for label, trajectory in story.episodes]
    task = seen[0][1].trajectory.task
    traces = "".join(_trace(label, one) for label, one in seen)
    return (
        f'<div class="story"><h3>{esc(story.job)}: {esc(story.title)}</h3><p>{esc(story.why)} '
        f"<small>Task <code>{esc(task.id)}</code></small></p>{_prompt(seen[0][1])}"
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
    turns, tokens = len(seen.trajectory.turns), int(seen.trajectory.mask.sum())
    return (
        f'<article class="trace"><header><b>{esc(label)}</b>'
        f'<span class="{style}">{sign} {esc(outcome_words(outcome))}</span>'
        f"<small>{plural(turns, 'turn')}, {plural(tokens, 'token')} written</small></header>"
        f"{value_line(seen)}{_moments(seen)}"
        f'<div class="mono">{_talk(seen)}</div></article>'
    )


def _moments(seen: View) -> str:
    if not seen.series:
        return '<p class="moments">V was not computed for this attempt.</p>'
    parts = [f"V began at <b>{percent(seen.series[0][1])}</b>"]
    moved = [moment for moment in (seen.fall, seen.rise) if moment is not None]
    for moment in sorted(moved, key=lambda moment: moment.position):
        sign = '<span class="down">▼</span>' if moment.fell else '<span class="up">▲</span>'
        parts.append(
            f"{sign} {percent(moment.before)} → <b>{percent(moment.after)}</b> at {_quoted(moment)}"
            + (f", turn {moment.turn}" if len(seen.trajectory.turns) > 1 else "")
        )
    parts.append(f"ended at <b>{percent(seen.series[-1][1])}</b>")
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
            size = f"the whole prompt, {len(passage.text):,} characters"
            whole = f'<details class="more"><summary>{size}</summary>{text}</details>'
            text = f"{esc(passage.text[:200])}…{whole}"
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
    if not numbered:
        return f'<div class="turn solo">{"".join(parts)}</div>'
    return f'<div class="turn"><span class="n">{turn}</span><span>{"".join(parts)}</span></div>'


def _span(seen: View, span: Span) -> str:
    text = esc(span.text)
    if span.value is None:
        return text
    style = f"v{shade(span.value)}{' end' if span.text == END else ''}"
    if seen.fall is not None and span.position == seen.fall.position:
        style += " fell"
    if seen.rise is not None and span.position == seen.rise.position:
        style += " rose"
    return f'<i class="{style}" title="V {percent(span.value)}">{text}</i>'
