"""From curves to figures and a table. Nothing here plays anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from bench.common import Results
from bench.efficiency.methods import BASELINE, HEADLINE, METHODS
from bench.efficiency.stats import COSTS, Cost, Curve, Ratio, Reached, area, median_cost, median_ratio, reached
from bench.efficiency.subjects import HEADLINE as HEADLINE_LEVEL
from bench.efficiency.subjects import SUBJECTS

UNCLEAR = "unclear"
Curves = Mapping[str, Mapping[str, Mapping[int, Curve]]]
"""By job, method and seed."""
Pairs = list[tuple[Reached, Reached]]


def costs(runs: Mapping[int, Curve], job: str, cost: Cost, level: int = HEADLINE_LEVEL) -> dict[int, Reached]:
    """What each seed paid for the job's threshold."""
    return {seed: reached(curve, SUBJECTS[job].thresholds[level], cost) for seed, curve in runs.items()}


def pairs(curves: Curves, job: str, baseline: str, method: str, cost: Cost, level: int = HEADLINE_LEVEL) -> Pairs:
    """(baseline, method) for every seed that both have run."""
    sides = [costs(curves.get(job, {}).get(name, {}), job, cost, level) for name in (baseline, method)]
    return [(sides[0][seed], sides[1][seed]) for seed in sorted(sides[0].keys() & sides[1].keys())]


def figures(results: Results, curves: Curves, *, whole: bool) -> None:
    """Every ratio that the curves allow, and each method's area and final success.

    `<cost>_ratio_<job>` is GRPO's cost over that of Journeyman with V, `<cost>_ratio_<method>_<job>` over another
    method's; TRL's is its own cost over our GRPO's, `<cost>_ratio_trl_<job>`. With `_long`, `_short` and, for TRL,
    nothing in the job's place: the median over these jobs.

    Args:
        whole: leave out medians that lack a job.
    """
    for method in METHODS:
        if method == BASELINE:
            continue
        sides = (method, BASELINE) if method == "trl" else (BASELINE, method)
        infix = "" if method == HEADLINE else f"_{method}"
        for cost in COSTS:
            found = {job: pairs(curves, job, *sides, cost) for job in curves}
            found = {job: both for job, both in found.items() if both}
            for job, both in found.items():
                write(results, f"{cost}_ratio{infix}_{job}", median_ratio([both]))
            groups = {
                "_long": [n for n, s in SUBJECTS.items() if s.length == "long"],
                "_short": [n for n, s in SUBJECTS.items() if s.length == "short"],
            }
            if method == "trl":
                groups = {"": [n for n, s in SUBJECTS.items() if s.single_turn]}
            for suffix, jobs in groups.items():
                there = [found[job] for job in jobs if job in found]
                if there and (len(there) == len(jobs) or not whole):
                    write(results, f"{cost}_ratio{infix}{suffix}", median_ratio(there))
    for job, methods in curves.items():
        until = common(methods)
        for method, runs in methods.items():
            for seed, curve in runs.items():
                under = 100 * area(curve, until)
                results.sample(f"area_percent_{method}_{job}", seed, under, "percent", bounds=(0, 100))
                final = 100 * curve.success[-1]
                results.sample(f"final_percent_{method}_{job}", seed, final, "percent", bounds=(0, 100))


def common(methods: Mapping[str, Mapping[int, Curve]]) -> int:
    """The trajectories that every run of a job has played: areas are compared up to there."""
    return min(curve.trajectories[-1] for runs in methods.values() for curve in runs.values())


def write(results: Results, name: str, ratio: Ratio) -> None:
    """The ratio as a figure; what censored runs leave of it stands in its unit. None where they leave nothing."""
    if ratio.bound == "unclear":
        results.without(name)
        return
    unit = "times" if ratio.bound == "exact" else f"times ({ratio.bound})"
    results.figure(name, ratio.value, unit, low=ratio.low, high=ratio.high)


def table(curves: Curves) -> str:
    """One row per job and method, as Markdown."""
    head = (
        "| job | method | seeds | success, start to end | trajectories to the thresholds | thousand tokens | minutes "
        "| area | GRPO's trajectories over its | GRPO's minutes over its |"
    )
    lines = [head, "|" + " --- |" * (head.count("|") - 1)]
    for job in [name for name in SUBJECTS if name in curves]:
        for method in [name for name in METHODS if name in curves[job]]:
            lines.append(row(curves, job, method))
    return "\n".join(lines)


def row(curves: Curves, job: str, method: str) -> str:
    """Costs are medians over the seeds, `>` where these were not reached; tokens and minutes are of the middle one."""
    runs = curves[job][method]
    levels = SUBJECTS[job].thresholds
    to_levels = [median_cost(list(costs(runs, job, "trajectories", i).values())) for i in range(len(levels))]
    tokens, minutes = (median_cost(list(costs(runs, job, cost).values())) for cost in ("tokens", "minutes"))
    first, last = (fmean(curve.success[i] for curve in runs.values()) for i in (0, -1))
    cells = [
        job,
        METHODS[method].label,
        str(len(runs)),
        f"{first:.0%} to {last:.0%}",
        "; ".join(f"{level:.0%}: {shown(cost, ',.0f')}" for level, cost in zip(levels, to_levels, strict=True)),
        shown(Reached(tokens.cost / 1000, tokens.censored), ",.0f"),
        shown(minutes, ".2f"),
        f"{fmean(area(curve, common(curves[job])) for curve in runs.values()):.0%}",
        *(
            "" if method == BASELINE else ratio_shown(pairs(curves, job, BASELINE, method, c))
            for c in ("trajectories", "minutes")
        ),
    ]
    return f"| {' | '.join(cells)} |"


def shown(cost: Reached, form: str) -> str:
    """A cost as text."""
    return f"{'> ' if cost.censored else ''}{cost.cost:{form}}"


def ratio_shown(both: Sequence[tuple[Reached, Reached]]) -> str:
    """A ratio as text: `3.1 [2.0, 4.5]`, `>= 3.1 [2.0, 4.5]`; `unclear` where too few runs got there."""
    if not both:
        return ""
    ratio = median_ratio([both])
    if ratio.bound == "unclear":
        return UNCLEAR
    sign = {"exact": "", "at least": "≥ ", "at most": "≤ "}[ratio.bound]
    interval = "" if ratio.low is None else f" [{ratio.low:.1f}, {ratio.high:.1f}]"
    return f"{sign}{ratio.value:.1f}{interval}"
