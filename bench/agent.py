"""An agent that knows nothing of Journeyman learns by another base_url: held-out success before and after.

    python -m bench.agent --seeds 0 1 2         three runs
    python -m bench.agent --seeds 0 --keep F --start F/watched      go on where a run with --keep F was stopped
    python -m bench.agent --quick               one learning step, ten tasks at each exam

The agent is examples/agent/agent.py, written against the `openai` package alone, with a tool and several turns; a
process of its own makes each attempt. The model that it starts with has watched a careful colleague fetch single
things and a careless one fetch two (examples/agent/school.py), once for all seeds; the seed fixes the rest. Two splits
are held out: `test`, tasks that are never asked in training, and `combined`, where things are wanted together that
never were. Writes bench/results/agent.json and agent.png.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.common import FOLDER, ROOT, Results, parser
from journeyman.run import read_lines

EXAMPLE = ROOT / "examples" / "agent"
SHAPE = "tiny,width=64,layers=2"
SCHOOL = ("--demonstrations", "4000", "--updates", "1200", "--batch", "64")
RATE = ("--optimizer.learning-rate", "3e-3")
STEPS, HELD_OUT = 20, 60
SPLITS = {"test": "heldout", "combined": "combined"}
"""What is examined, and what its figures are called."""


def journeyman(*words: str | Path) -> None:
    """A command of ours, to its end."""
    subprocess.run([sys.executable, "-m", "journeyman", *map(str, words)], check=True, cwd=ROOT)


def schooled(folder: Path) -> Path:
    """What all seeds start with."""
    out = folder / "watched"
    journeyman("school", f"{EXAMPLE / 'school.py'}:Watched", "--out", out, "--model", SHAPE, *SCHOOL, *RATE)
    return out


def learned(start: Path, tasks: Path, seed: int, folder: Path, quick: bool) -> None:
    """One run, or what is missing of it."""
    steps, held_out = (1, 10) if quick else (STEPS, HELD_OUT)
    python = Path(sys.executable)
    journeyman(
        *("learn", "--agent", f"{python} {EXAMPLE / 'agent.py'}", "--tasks", tasks),
        *("--grade", f"{python} {EXAMPLE / 'grade.py'}", "--model", start, "--run", folder, "--context", "512"),
        *("--steps", str(steps), "--exam.tasks", str(held_out), "--seed", str(seed), "--agent.seconds", "600"),
        *("--agent.at-once", "4"),
        *("--rollout.seconds-per-step", "300"),  # the machine may be busy with something else
    )


def record(results: Results, seed: int, folder: Path) -> None:
    """The figures of one seed."""
    steps = [r for r in read_lines(folder / "metrics.jsonl") if r["kind"] == "learn"]
    exams = read_lines(folder / "exams.jsonl")
    shown: list[dict[str, Any]] = []
    for split, name in SPLITS.items():
        before, *_, after = sorted((e for e in exams if e["split"] == split), key=lambda e: e["step"])
        middle, low, high = (100 * before[key] for key in ("success", "low", "high"))  # the same model for every seed
        results.figure(f"agent_{name}_before_percent", middle, "percent", low=low, high=high)
        results.sample(f"agent_{name}_after_percent", seed, 100 * after["success"], "percent", bounds=(0, 100))
        keys = ("step", "split", "success", "low", "high", "tasks")
        shown += [{key: exam[key] for key in keys} for exam in (before, after)]
    results.sample("agent_attempts", seed, steps[-1]["trajectories"], "attempts")
    results.sample("agent_seconds", seed, steps[-1]["seconds"], "s", bounds=(0, float("inf")))
    (name,) = (key for key in steps[0] if key.endswith("/success"))
    curve = [[step["trajectories"], step[name]] for step in steps]
    results.detail(f"seed {seed}", {"curve": curve, "exams": shown})


def draw(seeds: dict[str, Any], file: Path) -> None:
    """Success in practice of every seed over the attempts made, and held-out success with its intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for number, (seed, found) in enumerate(sorted(seeds.items())):
        made = [attempts for attempts, _ in found["curve"]]
        (line,) = axis.plot(made, [100 * success for _, success in found["curve"]], lw=1.2, label=seed)
        for exam in found["exams"]:
            middle, low, high = (100 * exam[key] for key in ("success", "low", "high"))
            spread, at = [[middle - low], [high - middle]], made[-1] * bool(exam["step"]) + 12 * number
            mark = "o" if exam["split"] == "test" else "x"
            axis.errorbar([at], [middle], yerr=spread, fmt=mark, ms=4, capsize=3, color=line.get_color())
    axis.set(xlabel="attempts", ylabel="done, %", ylim=(0, 102))
    axis.set_title("lines: in practice; o: held out; x: new combinations", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=130)


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--start", type=Path, help="what an earlier run of this script schooled; else it is made")
    asked.add_argument("--keep", type=Path, help="folder for the runs, to look into them and to go on after a stop")
    options = asked.parse_args()
    results = Results("agent", seeds=options.seeds, quick=options.quick)
    with tempfile.TemporaryDirectory() as place:
        folder = options.keep or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        tasks = folder / "workshop.jsonl"
        with tasks.open("w") as file:
            subprocess.run([sys.executable, EXAMPLE / "tasks.py"], stdout=file, check=True)
        start = options.start or schooled(folder)
        for seed in options.seeds:
            learned(start, tasks, seed, folder / f"seed-{seed}", options.quick)
            record(results, seed, folder / f"seed-{seed}")
            written = json.loads(results.write().read_text())
            if not options.quick:
                draw(written["details"], FOLDER / "agent.png")


if __name__ == "__main__":
    main()
