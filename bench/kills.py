"""Kill a learning run again and again, at random moments; count the episodes that it had acknowledged and lost.

    python -m bench.kills                 50 kills (about ten minutes)
    python -m bench.kills --quick         5 kills

A child process runs `journeyman.learn` and writes the ids of episodes to a pipe as soon as `Store.add` has
returned for them. The parent sends SIGKILL after a random delay, starts it again, and at the end compares the ids
with the store, verifies every digest, and lets the run finish. Writes `kills_episodes_lost` into
bench/results/demo.json, and the details into bench/results/kills.json.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.common import Results, parser
from journeyman.experience import Store

CHILD = """
import sys
from pathlib import Path
from journeyman import LearnConfig, SchoolConfig, Store, learn

add = Store.add
def acknowledged(self, trajectories):
    add(self, trajectories)
    sys.stdout.write("".join(f"{t.id}\\n" for t in trajectories))
    sys.stdout.flush()
Store.add = acknowledged
config = LearnConfig(
    jobs=("maze,size=3",), model="tiny,width=32,layers=2,heads=2", steps=int(sys.argv[2]), tasks=8, repeats=8,
    school=SchoolConfig(demonstrations=30, updates=40), checkpoint_every=3, value_warmup=1, context=512, threads=1,
)
for _ in learn(config, Path(sys.argv[1])):
    pass
"""


def run_child(folder: Path, steps: int, seconds: float | None) -> tuple[list[str], int]:
    """Run for so long, then kill; the ids acknowledged (whole lines only) and the exit status."""
    command = [sys.executable, "-c", CHILD, str(folder), str(steps)]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read()
    return text.splitlines()[: text.count("\n")], process.returncode


def main() -> None:
    options = parser(__doc__).parse_args()
    kills = 5 if options.quick else 50
    rng = random.Random(0)
    folder = Path(tempfile.mkdtemp()) / "run"
    promised: set[str] = set()
    started = time.monotonic()
    for number in range(kills):
        acknowledged, status = run_child(folder, 10_000, rng.uniform(5, 14))
        promised.update(acknowledged)
        assert status == -signal.SIGKILL, f"the run ended by itself with status {status}"
        print(f"kill {number + 1:2d}: {len(acknowledged):4d} acknowledged, {len(promised)} in all", flush=True)
    with Store(folder / "experience.sqlite") as store:
        kept = {trajectory.id for trajectory in store.episodes()}
        problems = store.verify()
    lost = len(promised - kept)
    print(f"{kills} kills, {len(promised)} episodes acknowledged, {lost} lost, {len(problems)} problems in the store")
    for name, amount, unit in (
        ("kills", kills, "kills"),
        ("kills_episodes_acknowledged", len(promised), "episodes"),
        ("kills_episodes_lost", lost, "episodes"),
        ("kills_store_problems", len(problems), "problems"),
        ("kills_seconds", time.monotonic() - started, "s"),
    ):
        for file in ("kills", "demo") if name == "kills_episodes_lost" else ("kills",):
            results = Results(file, quick=options.quick)
            results.figure(name, amount, unit)
            results.write()
    shutil.rmtree(folder.parent)
    if lost or problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
