"""An agent that knows nothing of Journeyman learns by another base_url: held-out success before and after.

    python -m bench.agent --seeds 0 1 2         three runs
    python -m bench.agent --quick               one learning step, ten tasks at each exam

The agent is examples/agent/agent.py, written against the `openai` package alone, with a tool and several turns; a
process of its own makes each attempt. The model that it starts with has watched a colleague who hardly knows the
workshop (examples/agent/school.py), once for all seeds; the seed fixes the rest. In the held-out tasks things are wanted
together that never were in training. Writes bench/results/agent.json and bench/results/agent.png.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import FOLDER, ROOT, Results, parser
from journeyman.run import read_lines

Records = list[dict[str, Any]]
EXAMPLE = ROOT / "examples" / "agent"
SHAPE = "tiny,width=64,layers=2"
SCHOOL = ("--demonstrations", "3000", "--updates", "200", "--optimizer.learning-rate", "3e-3")
STEPS, HELD_OUT = 12, 120


def journeyman(*words: str | Path) -> None:
    """A command of ours, to its end."""
    subprocess.run([sys.executable, "-m", "journeyman", *map(str, words)], check=True, cwd=ROOT)


def schooled(folder: Path) -> Path:
    """What all seeds start with."""
    out = folder / "watched"
    journeyman("school", f"{EXAMPLE / 'school.py'}:Watched", "--out", out, "--model", SHAPE, *SCHOOL)
    return out


def learned(start: Path, tasks: Path, seed: int, folder: Path, quick: bool) -> float:
    """One run; its seconds."""
    steps, held_out = (1, 10) if quick else (STEPS, HELD_OUT)
    python = Path(sys.executable)
    begun = time.monotonic()
    journeyman(
        *("learn", "--agent", f"{python} {EXAMPLE / 'agent.py'}", "--tasks", tasks),
        *("--grade", f"{python} {EXAMPLE / 'grade.py'}", "--model", start, "--run", folder, "--context", "512"),
        *("--steps", str(steps), "--exam.tasks", str(held_out), "--seed", str(seed), "--agent.seconds", "600"),
        *("--rollout.seconds-per-step", "300"),  # the machine may be busy with something else
    )
    return time.monotonic() - begun


def record(results: Results, seed: int, exams: Records) -> None:
    """The figures of one seed."""
    last = max(exam["step"] for exam in exams)
    for exam in exams:
        when = {0: "before", last: "after"}.get(exam["step"])
        if when is not None:
            percent = 100 * exam["success"]
            results.sample(f"agent_heldout_{when}_percent", seed, percent, "percent", bounds=(0, 100))


def draw(curves: dict[int, Records], exams: dict[int, Records], file: Path) -> None:
    """Success in practice of every seed over the attempts made, and held-out success with its intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for number, (seed, steps) in enumerate(sorted(curves.items())):
        made = [step["trajectories"] for step in steps]
        name = next(key for key in steps[0] if key.endswith("/success"))
        (line,) = axis.plot(made, [100 * step[name] for step in steps], lw=1.2, label=f"seed {seed}")
        for exam in exams[seed]:
            at = (made[-1] if exam["step"] else 0) + 3 * number
            middle, low, high = (100 * exam[key] for key in ("success", "low", "high"))
            spread = [[middle - low], [high - middle]]
            axis.errorbar([at], [middle], yerr=spread, fmt="o", ms=4, capsize=3, color=line.get_color())
    axis.set(xlabel="attempts", ylabel="done, %", ylim=(0, 100), title="lines: in practice, points: held out")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=130)


def main() -> None:
    options = parser(__doc__).parse_args()
    results = Results("agent", seeds=options.seeds, quick=options.quick)
    curves: dict[int, Records] = {}
    exams: dict[int, Records] = {}
    with tempfile.TemporaryDirectory() as place:
        tasks = Path(place) / "workshop.jsonl"
        with tasks.open("w") as file:
            subprocess.run([sys.executable, EXAMPLE / "tasks.py"], stdout=file, check=True)
        start = schooled(Path(place))
        for seed in options.seeds:
            folder = Path(place) / f"seed-{seed}"
            seconds = learned(start, tasks, seed, folder, options.quick)
            curves[seed] = [r for r in read_lines(folder / "metrics.jsonl") if r["kind"] == "learn"]
            exams[seed] = read_lines(folder / "exams.jsonl")
            results.sample("agent_seconds", seed, seconds, "s", bounds=(0, float("inf")))
            results.sample("agent_attempts", seed, curves[seed][-1]["trajectories"], "attempts")
            record(results, seed, exams[seed])
    results.write()
    if not options.quick:
        draw(curves, exams, FOLDER / "agent.png")


if __name__ == "__main__":
    main()
