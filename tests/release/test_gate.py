"""The gate is a pure function of evidence: what it demands, what it forgives, and how often it errs."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binom

from journeyman.errors import UsageError
from journeyman.release.evidence import ASPECTS, Aspect, Sample, gap, gathered
from journeyman.release.gate import GateConfig, Power, Verdict, granted, judge, latest, read_judgement
from journeyman.release.printed import render_judgement

ABILITY = GateConfig(demands=("ability",))


def both(aspect: Aspect, about: str, n: int, better: float = 0.0, seed: int = 0, differ: float = 0.1) -> Sample:
    """Coins of the release (0.8), and the candidate's: the share `differ` turns over, and it is better by so much."""
    rng = np.random.default_rng(seed)
    theirs = rng.random(n) < 0.8
    draw = rng.random(n)
    gained, lost = differ / 2 + max(better, 0.0), differ / 2 + max(-better, 0.0)
    ours = np.where(theirs, draw > lost / 0.8, draw < gained / 0.2)
    return Sample(aspect, about, tuple(ours.astype(float)), tuple(theirs.astype(float)))


LIKE_COINS: tuple[Aspect, ...] = ("ability", "search", "audit", "inside", "calibration", "abstention")


def everything(n: int = 4000) -> list[Sample]:
    """Evidence of a good candidate in every aspect."""
    samples = [both(aspect, "maze", n, seed=seed) for seed, aspect in enumerate(LIKE_COINS)]
    samples.append(both("improvement", "scan", n, 0.1, 90))
    seen, held = both("improvement", "scan", n, 0.1, 91), both("improvement", "scan", n, 0.1, 92)
    samples.append(gap("scan", seen, held))
    samples.append(Sample("rules", "no shell", (1.0,) * n))
    samples.append(Sample("drift", "maze", tuple(np.random.default_rng(9).exponential(0.05, n).clip(0, 2))))
    return samples


def test_a_good_one_passes_in_every_aspect_and_gets_all_power() -> None:
    found = judge(everything())
    assert found.verdict is Verdict.PASS, [f.reason for f in found.findings]
    assert {f.aspect for f in found.findings} == set(ASPECTS) and found.power == Power()


def test_one_broken_rule_is_enough() -> None:
    samples = [*everything(), Sample("rules", "no shell", (0.0,))]
    found = judge(samples)
    assert found.verdict is Verdict.FAIL and found.power is None
    assert [f.reason for f in found.of(Verdict.FAIL)] == ["no shell: broken in 1 of 4001 episodes, and never is never"]


def test_what_is_plainly_lost_is_refuted() -> None:
    found = judge([both("ability", "maze", 4000, -0.1)], ABILITY)
    (finding,) = found.findings
    assert found.verdict is Verdict.FAIL and finding.high < -0.025 and "refuted" in finding.reason


def test_little_evidence_is_inconclusive_and_so_is_none() -> None:
    assert judge([both("ability", "maze", 50)], ABILITY).verdict is Verdict.INCONCLUSIVE
    found = judge([])
    assert found.verdict is Verdict.INCONCLUSIVE and found.missing == ASPECTS and found.evidence == 0
    found = judge([s for s in everything() if s.aspect != "inside"])
    assert found.verdict is Verdict.INCONCLUSIVE and found.missing == ("inside",)


def test_worse_by_three_points_seldom_passes_however_often_one_looks() -> None:
    """100 candidates that are 3 points worse on one job, 4 looks each; alpha is about 0.008. Odds of failing by chance:
    below one in a million at a rate of 0.02."""
    passed = 0
    for seed in range(100):
        whole = both("ability", "maze", 3200, -0.03, seed)
        for n in (400, 800, 1600, 3200):
            look = replace(whole, candidate=whole.candidate[:n], release=whole.release[:n])
            if judge([look], ABILITY).verdict is Verdict.PASS:
                passed += 1
                break
    assert float(binom.sf(passed - 1, 100, 0.02)) > 1e-6, passed


def test_the_abler_the_surer() -> None:
    config = GateConfig()
    assert config.alpha(0.5, 0, 0) == pytest.approx(0.5 * config.budget.level(0, 0))
    assert config.alpha(0.9, 0, 0) < config.alpha(0.5, 0, 0) and config.alpha(1.0, 0, 0) == config.alpha(0.99, 0, 0)
    weak = judge([Sample("ability", "a", (0.0, 1.0) * 50, (0.0, 1.0) * 50)], ABILITY)
    able = judge([Sample("ability", "a", (1.0,) * 100, (1.0,) * 100)], ABILITY)
    assert weak.alpha > able.alpha


def test_repeated_tries_are_charged_and_releases_earn() -> None:
    evidence = [both("ability", "maze", 3000)]
    first, tenth = judge(evidence, ABILITY), judge(evidence, ABILITY, tried=9)
    assert tenth.alpha == pytest.approx(first.alpha * 10**-1.5)
    assert judge(evidence, ABILITY, tried=9, released=9).alpha == pytest.approx(tenth.alpha * 10)


def test_power_follows_evidence() -> None:
    shares = [granted(math.log(e)).share for e in (10, 20, 100, 1000)]
    assert shares == [0.0, 0.1, 0.5, 1.0] and granted(math.log(50)).tools == ()


def test_pieces_of_evidence_add_up() -> None:
    whole = everything(400)
    parts = [replace(s, candidate=s.candidate[i::2], release=s.release[i::2]) for i in (0, 1) for s in whole]
    one, other = judge(whole), judge(parts)
    assert [f.shown for f in one.findings] == pytest.approx([f.shown for f in other.findings])
    assert len(gathered(parts)) == len(gathered(whole))


def test_a_judgement_survives_json() -> None:
    found = judge(everything(300))
    assert read_judgement(json.loads(json.dumps(found.as_dict()))) == found


def test_the_latest_judgement_counts_whatever_else_was_found() -> None:
    old, new = judge(everything(100)), judge(everything(300))
    assert latest([old.as_dict(), new.as_dict(), {"latency": 0.2}]) == new
    assert latest([{"latency": 0.2}]) is latest([]) is None


def test_a_judgement_reads_well() -> None:
    """The whole of it, as an engineer sees it."""
    found = judge([both("ability", "maze", 4000), both("improvement", "scan", 2000, 0.1), Sample("rules", "no shell",
                  (1.0,) * 999 + (0.0,))], replace(ABILITY, demands=("ability", "audit")))  # fmt: skip
    console = Console(width=110, force_terminal=False)
    with console.capture() as capture:
        console.print(render_judgement(found, "version 7"))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert lines[0] == "FAIL  version 7  2 of 3 claims shown"
    assert lines[3].split() == [
        "aspect",
        "about",
        "candidate",
        "release",
        "difference",
        "bounds",
        "must",
        "be",
        "tasks",
        "e",
    ]
    assert lines[4].startswith("✓  ability") and lines[6].startswith("✗  rules") and "99.9%" in lines[6]
    assert "? nothing was gathered of: audit" in lines
    assert any(line.startswith("✗ rules, no shell: broken in 1 of 1000") for line in lines)
    assert max(map(len, lines)) <= 110


def test_impossible_evidence_and_demands_are_refused() -> None:
    for wrong in (
        lambda: Sample("ability", "x", (1.0,), ()),
        lambda: Sample("ability", "x", (1.2,), (1.0,)),
        lambda: Sample("rules", "x", (1.0,), (1.0,)),
        lambda: Sample("taste", "x", (), ()),  # type: ignore[arg-type]
        lambda: GateConfig(drift=0.0),
        lambda: GateConfig(ability=-0.1),
        lambda: GateConfig(false_alarm=0.0),
        lambda: GateConfig(demands=("taste",)),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError):
            wrong()
