"""Judgements and decisions as people read them: the verdict first, then each claim or guardrail on its own line."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from journeyman.release.evidence import ALONE
from journeyman.release.gate import Finding, Judgement, Verdict
from journeyman.release.rollout import Decision

SIGNS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.INCONCLUSIVE: "?"}
STYLES = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.INCONCLUSIVE: "yellow"}
DECISIONS = {"wait": "yellow", "advance": "green", "roll back": "red"}
PER_CENT = frozenset({"ability", "improvement", "generalization", "search", "audit", "rules", "abstention"})
"""Aspects whose numbers are shares; the others are scores."""


def render_judgement(judgement: Judgement, name: str = "the candidate") -> RenderableType:
    """A judgement on a terminal, 100 columns wide."""
    j, style = judgement, STYLES[judgement.verdict]
    held, of = len(j.of(Verdict.PASS)), len(j.findings)
    head = Text.assemble((j.verdict.upper(), f"bold {style}"), "  ", (name, "bold"), f"  {held} of {of} claims shown")
    terms = Text(
        f"alpha {j.alpha:.2g}: candidate {j.tried + 1} with {j.released} released before, solving {j.ability:.0%}",
        "dim",
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for title, side in (("", "left"), ("aspect", "left"), ("about", "left"), ("candidate", "right"),
                        ("release", "right"), ("difference", "right"), ("bounds", "right"), ("must be", "right"),
                        ("tasks", "right"), ("e", "right")):  # fmt: skip
        table.add_column(title, justify="right" if side == "right" else "left", no_wrap=True)
    for finding in j.findings:
        table.add_row(*_row(finding), style=None if finding.verdict is Verdict.PASS else STYLES[finding.verdict])
    parts: list[RenderableType] = [head, terms, Text(), table, Text()]
    parts += [Text(f"? nothing was gathered of: {', '.join(j.missing)}", "yellow")] if j.missing else []
    parts += [Text(f"{SIGNS[f.verdict]} {f.aspect}, {f.reason}", STYLES[f.verdict]) for f in _told(j)]
    parts.append(_conclusion(j))
    return Group(*parts)


def _told(j: Judgement) -> tuple[Finding, ...]:
    """What the verdict rests on: what was refuted, else what is not shown."""
    return j.of(Verdict.FAIL) or j.of(Verdict.INCONCLUSIVE)


def _conclusion(j: Judgement) -> Text:
    if j.power is not None:
        p = j.power
        tools = "all tools" if "*" in p.tools else ", ".join(p.tools) or "no tools"
        text = f"It may have {p.share:.0%} of the traffic, {p.tokens:,} tokens and {p.seconds:g} s an answer, {tools}."
        return Text.assemble((text, "bold"), (f"  The weakest claim has e = {_evidence(j.evidence)}.", "dim"))
    if j.verdict is Verdict.FAIL:
        return Text("It stays out. What it learned from can be kept from the next one: journeyman release quarantine.")
    return Text("It is held until more is known.")


def _row(f: Finding) -> list[str]:
    scale, places, unit = (100, 1, "%") if f.aspect in PER_CENT else (1, 3, "")
    alone = f.aspect in ALONE
    sign = "<" if f.aspect == "drift" else ">"
    bounds = f"{scale * f.low:.{places}f}, {scale * f.high:.{places}f}"
    if not alone:
        bounds = f"{scale * f.low:+.{places}f}, {scale * f.high:+.{places}f}"
    return [
        SIGNS[f.verdict],
        f.aspect,
        f.about,
        f"{scale * f.candidate:.{places}f}{unit}",
        "" if f.release is None else f"{scale * f.release:.{places}f}{unit}",
        "" if alone else f"{scale * f.difference:+.{places}f}",
        f"[{bounds}]",
        f"{sign} {scale * f.bound:{'' if alone else '+'}.{places}f}",
        f"{f.tasks:,}",
        _evidence(f.shown),
    ]


def _evidence(log: float) -> str:
    """An e-value of which the logarithm is given: two digits, a power of ten where it is large."""
    if log < math.log(1000):
        return f"{math.exp(log):.2g}" if log < math.log(100) else f"{math.exp(log):.0f}"
    return f"1e{math.floor(log / math.log(10)):.0f}" if math.isfinite(log) else "proof"


def render_decision(decision: Decision) -> RenderableType:
    """What a look at a rollout came to, with every guardrail on a line of its own."""
    head = Text.assemble((decision.what.upper(), f"bold {DECISIONS[decision.what]}"), "  ", decision.why)
    if not decision.readings:
        return head
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for title in ("guardrail", "candidate", "release", "pairs", "e for", "e against"):
        table.add_column(title, justify="left" if title == "guardrail" else "right", no_wrap=True)
    for r in decision.readings:
        means = (f"{mean:.3f}" if math.isfinite(mean) else "-" for mean in (r.candidate, r.release))
        table.add_row(r.name, *means, f"{r.pairs:,}", _evidence(r.shown), _evidence(r.refuted))
    return Group(head, table)
