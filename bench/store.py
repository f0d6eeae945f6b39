"""How fast the store acknowledges: turns a second by writers at a time, against one fsync per turn.

    python -m bench.store                     5 seconds for each number of writers
    python -m bench.store --quick
    python -m bench.store --url postgresql+psycopg://...

Each writer records a turn (200 tokens of prompt, 50 of completion) and waits until it is on disk before the next. With
one writer each turn costs a commit of its own; with many, those that wait share one. `fsyncs_per_second` is what the
disk does for a bare file, one after another.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from sqlalchemy import event

from bench.common import Results, parser
from journeyman.experience import ServedTurn, Store, VersionSpan, uuid7

WRITERS = (1, 4, 16, 64, 256)
PROMPT, COMPLETION = 200, 50


def turn() -> ServedTurn:
    tokens = np.random.default_rng().integers(0, 32_000, PROMPT + COMPLETION).astype(np.int32)
    numbers = np.random.default_rng().random(PROMPT + COMPLETION).astype(np.float32)
    now = time.time()
    return ServedTurn(
        id=uuid7(),
        episode=uuid7(),
        prompt=tokens[:PROMPT],
        completion=tokens[PROMPT:],
        logprobs=-numbers[:COMPLETION],
        values=numbers,
        spans=(VersionSpan(1, 0, COMPLETION),),
        finish="stop",
        started=now,
        ended=now,
        messages=({"role": "user", "content": "word " * PROMPT},),
        reply={"role": "assistant", "content": "word " * COMPLETION},
    )


def fsyncs(folder: Path, seconds: float) -> float:
    """Appends of 4 KiB that a bare file takes a second, each with its fsync."""
    count, started = 0, time.perf_counter()
    with (folder / "bare").open("wb", buffering=0) as file:
        while time.perf_counter() - started < seconds:
            file.write(bytes(4096))
            os.fsync(file.fileno())
            count += 1
    return count / (time.perf_counter() - started)


def measure(store: Store, writers: int, seconds: float) -> tuple[float, float, float]:
    """Turns a second, turns in a commit, milliseconds of CPU for a turn."""
    commits: list[None] = []
    count = [0] * writers
    engine = store._database.engine

    def committed(_: object) -> None:
        commits.append(None)

    def write(number: int) -> None:
        while time.perf_counter() < end:
            store.record([turn()]).result()
            count[number] += 1

    event.listen(engine, "commit", committed)
    started, cpu = time.perf_counter(), time.process_time()
    end = started + seconds
    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    event.remove(engine, "commit", committed)
    return sum(count) / wall, sum(count) / len(commits), 1000 * cpu / sum(count)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--url", help="a database instead of a SQLite file; nothing is written down")
    given = options.parse_args()
    seconds = 1.0 if given.quick else 5.0
    results = Results("store", seeds=given.seeds, quick=given.quick)
    with tempfile.TemporaryDirectory(prefix="journeyman-store-") as folder:
        results.figure("fsyncs_per_second", fsyncs(Path(folder), seconds), "fsyncs/s")
        with Store(given.url or Path(folder) / "experience.sqlite") as store:
            for writers in WRITERS:
                speed, shared, cpu = measure(store, writers, seconds)
                print(
                    f"{writers:3d} writers: {speed:7.1f} turns/s, {shared:5.1f} in a commit, {cpu:.2f} ms of CPU each"
                )
                results.figure(f"turns_per_second_{writers}", speed, "turns/s")
                results.figure(f"turns_per_commit_{writers}", shared, "turns")
                results.figure(f"cpu_per_turn_{writers}", cpu, "ms")
            assert not store.verify()
    if given.url is None:
        results.write()


if __name__ == "__main__":
    main()
