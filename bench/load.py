"""How much of the engine is left when it is served: requests/s, tokens/s and waiting times by clients at once.

    python -m bench.load                     two models, 1 to 256 clients (about half an hour on two cores)
    python -m bench.load --only tiny --clients 64
    python -m bench.load --quick

The server is a process of its own; its clients stream, and ask again as soon as they are answered. In turn, within
seconds of each other, each number of clients meets

    on        the server as it is: an answer is told when its turn is on the disk
    off       the same process, which keeps nothing
    engine    no server: the engine and V alone, with as many sequences under way (but no more than there are slots)

with the same prompts, slots and limits. What keeping costs is the median over such rounds of 1 - on/off, in requests/s;
its interval is the bootstrap's of that median. Server and clients share the machine: the clients' work is part of what
is measured, but for the engine alone.

    tiny      random weights, 0.8 million parameters and a V: the work is nearly all the server's own
    smollm2   SmolLM2-135M, a small language model; V would have to be learned first, and there is none

Writes bench/results/load.json and load.png. Figures without a suffix are SmolLM2's.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bench.common import FOLDER, Results, parser
from bench.serving import Heard, Process, ask_for, chat_body
from bench.throughput import Echo
from journeyman.api import open_model
from journeyman.engine.base import Reply, Sampling
from journeyman.experience.records import ServedTurn
from journeyman.model.load import save
from journeyman.model.render import Renderer
from journeyman.model.tiny import fresh
from journeyman.model.value import ValueConfig, ValueFunction
from journeyman.prefixes import under_way
from journeyman.serve.config import ServeConfig
from journeyman.serve.deployment import Deployment
from journeyman.serve.judge import Judge
from journeyman.serve.server import Addresses, serve
from journeyman.serve.service import History, sampled
from journeyman.stages import native_engine
from journeyman.types import Message, Trajectory

CLIENTS = (1, 4, 16, 64, 256)
SLOTS, CONTEXT = 64, 256
WARM = 1.0
"""Seconds after which a level is at its pace."""
WORDS = ("red", "green", "blue", "four", "five", "six")


@dataclass(frozen=True)
class Subject:
    """A model to be served.

    Attributes:
        source: as `journeyman serve` takes it.
        tokens: longest reply.
        seconds: how long each measurement takes.
    """

    name: str
    source: str
    tokens: int
    seconds: float


def subjects(names: Sequence[str], folder: Path, quick: bool) -> list[Subject]:
    found: list[Subject] = []
    if "tiny" in names:
        torch.manual_seed(0)
        model = fresh("tiny,vocab=512", [Echo()])
        value = ValueFunction.start(ValueConfig(), model.model)
        save(folder / "tiny", model.model, model.tokenizer, value)
        found.append(Subject("tiny", str(folder / "tiny"), 64, 1.0 if quick else 3.0))
    if "smollm2" in names and not quick:
        found.append(Subject("smollm2", "smollm2-135m", 32, 20.0))
    return found


def prompt(number: int) -> str:
    """Of the n-th request: no two alike, so that none is read from another's cache."""
    return f"{number} " + " ".join(np.random.default_rng(number).choice(WORDS, 12))


# -- the server, with a switch ------------------------------------------------------------------------------------


def serve_with_switch(source: str) -> None:
    """The process of the server: SIGUSR1 lets it keep nothing, SIGUSR2 keep everything again."""

    def ready(d: Deployment, at: Addresses) -> None:
        forgetting = SimpleNamespace(record=_forget, probe=d.store.probe)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, setattr, d.gateway, "store", forgetting)
        loop.add_signal_handler(signal.SIGUSR2, setattr, d.gateway, "store", d.store)
        print(f"served at {at.api}/v1", file=sys.stderr, flush=True)

    config = ServeConfig(port=0, admin_port=0, store="experience.sqlite", slots=SLOTS, context=CONTEXT, name="load")
    serve(source, config, ready)


def _forget(turns: Sequence[ServedTurn]) -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


# -- measuring ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """What one measurement found: requests/s and tokens/s, seconds to each answer's first token and to its end, and
    milliseconds of the server's CPU for an answer."""

    requests: float
    tokens: float
    first: tuple[float, ...] = ()
    whole: tuple[float, ...] = ()
    cpu: float = 0.0


def served(process: Process, subject: Subject, clients: int, keeps: bool, offset: int) -> Pace:
    process.signal(signal.SIGUSR2 if keeps else signal.SIGUSR1)
    before = process.cpu()
    started = time.monotonic()
    answers: list[Heard] = asyncio.run(
        ask_for(
            process.host, process.port, clients, subject.seconds, WARM,
            lambda number: chat_body("load", prompt(offset + number), subject.tokens),
        )
    )  # fmt: skip
    cpu = (process.cpu() - before) / (time.monotonic() - started)
    rate = len(answers) / subject.seconds
    return Pace(
        requests=rate,
        tokens=sum(one.tokens for one in answers) / subject.seconds,
        first=tuple(one.first - one.asked for one in answers),
        whole=tuple(one.ended - one.asked for one in answers),
        cpu=1000 * cpu / max(rate, 1e-9),
    )


class Bare:
    """The engine alone, on the same work."""

    def __init__(self, subject: Subject) -> None:
        loaded = open_model(subject.source)
        self.subject, self.renderer, self.judge = subject, Renderer(loaded.tokenizer), Judge(loaded)
        self.engine = native_engine(self.judge.learner, slots=SLOTS, context=CONTEXT)

    def pace(self, clients: int, offset: int) -> Pace:
        """As many sequences under way as clients, but no more than slots."""
        sampling = Sampling(max_tokens=self.subject.tokens, stop=self.renderer.end_ids)
        count, made, ended = offset, 0, 0
        prompts: dict[int, list[int]] = {}
        begins = time.monotonic() + WARM
        ends = begins + self.subject.seconds
        going = min(clients, SLOTS)
        while (now := time.monotonic()) < ends:
            for _ in range(going):
                count += 1
                sequence = self.engine.open(count)
                prompts[sequence] = self.renderer.open((Message("user", prompt(count)),))
                self.engine.submit(sequence, prompts[sequence], sampling)
            replies = self.engine.step()
            for reply in replies:
                self.engine.close(reply.sequence)
            self.judge.judge([judged(prompts.pop(reply.sequence), reply) for reply in replies])
            going = len(replies)
            if now >= begins:
                made += sum(len(reply.tokens) for reply in replies)
                ended += len(replies)
        while self.engine.busy:
            for reply in self.engine.step():
                self.engine.close(reply.sequence)
        return Pace(ended / self.subject.seconds, made / self.subject.seconds)


def judged(prompt: Sequence[int], reply: Reply) -> Trajectory:
    """A reply as V reads it."""
    whole = History.of(prompt).then(sampled(reply.tokens, reply.logprobs))
    return under_way("", 1.0, whole.tokens, whole.mask, whole.logprobs)


Round = dict[str, Pace]


def rounds(process: Process, bare: Bare, subject: Subject, clients: int, repeats: int) -> list[Round]:
    """Each of on, off and engine so often, in turn; on and off change places from one round to the next."""
    found: list[Round] = []
    for number in range(repeats):
        order = ("on", "off") if number % 2 else ("off", "on")
        offset = 1_000_000 * (number + 1) + 10_000_000 * clients
        one = {side: served(process, subject, clients, side == "on", offset) for side in order}
        one["engine"] = bare.pace(clients, offset)
        found.append(one)
    return found


# -- writing down -------------------------------------------------------------------------------------------------


def cost(found: Sequence[Round]) -> tuple[float, float, float]:
    """Percent of the requests/s that keeping takes: the median of the rounds, with its 95% interval."""
    costs = np.asarray([100 * (1 - one["on"].requests / one["off"].requests) for one in found])
    drawn = np.random.default_rng(0).choice(costs, (10_000, len(costs)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(np.median(costs)), float(low), float(high)


def quantiles(found: Sequence[Round], side: str, name: str) -> dict[str, float]:
    """p50 and p99 in milliseconds: of each round, then the median over rounds."""
    spans = [np.quantile(getattr(one[side], name), (0.5, 0.99)) for one in found if getattr(one[side], name)]
    p50, p99 = np.median(spans, axis=0)
    return {"p50": 1000 * float(p50), "p99": 1000 * float(p99)}


def note(results: Results, subject: Subject, clients: int, found: Sequence[Round]) -> dict[str, Any]:
    """Write down what a number of clients met; the row of the table."""
    row: dict[str, Any] = {"clients": clients}
    for side in ("on", "off", "engine"):
        row[f"requests_{side}"] = statistics.median(one[side].requests for one in found)
        row[f"tokens_{side}"] = statistics.median(one[side].tokens for one in found)
    for side in ("on", "off"):
        row[f"first_{side}"], row[f"whole_{side}"] = (quantiles(found, side, name) for name in ("first", "whole"))
        row[f"cpu_{side}"] = statistics.median(one[side].cpu for one in found)
    row["share_of_engine"] = statistics.median(one["on"].tokens / one["engine"].tokens for one in found)
    percent, low, high = cost(found)
    row["logging_cost_percent"] = percent
    label = "" if subject.name == "smollm2" else f"_{subject.name}"
    results.figure(f"logging_cost_percent_{clients}{label}", percent, "percent", low=low, high=high)
    results.figure(f"requests_per_second_{clients}{label}", row["requests_on"], "requests/s")
    results.figure(f"tokens_per_second_{clients}{label}", row["tokens_on"], "tokens/s")
    results.figure(f"engine_tokens_per_second_{clients}{label}", row["tokens_engine"], "tokens/s")
    results.figure(f"share_of_engine_{clients}{label}", row["share_of_engine"], "share")
    for quantile in ("p50", "p99"):
        results.figure(f"ttft_{quantile}_ms_{clients}{label}", row["first_on"][quantile], "ms")
        results.figure(f"latency_{quantile}_ms_{clients}{label}", row["whole_on"][quantile], "ms")
    print(
        f"{subject.name:8s} {clients:3d} clients: {row['requests_on']:7.1f} requests/s ({row['requests_off']:.1f} off),"
        f" {row['tokens_on']:.0f} of {row['tokens_engine']:.0f} tokens/s,"
        f" first token {row['first_on']['p50']:.0f} / {row['first_on']['p99']:.0f} ms,"
        f" {row['cpu_on']:.2f} ({row['cpu_off']:.2f}) ms of CPU each,"
        f" keeping costs {percent:.1f}% [{low:.1f}, {high:.1f}]",
        flush=True,
    )
    return row


def draw(results: Results) -> None:
    """Tokens/s and waiting times by clients, of the models that met several numbers of them."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    from journeyman.report import palette

    measured: dict[str, Any] = json.loads(results.path.read_text())["details"]["by_clients"]
    tables = {name: rows for name, rows in measured.items() if len(rows) > 1}
    if not tables:
        return
    blue, orange = palette.BEAD.hex(1.0), palette.BEAD.hex(0.0)
    picture, axes = plt.subplots(1, 2 * len(tables), figsize=(5 * len(tables) * 1.4, 3.8), layout="constrained")
    for place, (name, rows) in enumerate(tables.items()):
        clients = [row["clients"] for row in rows]
        speed, wait = axes[2 * place], axes[2 * place + 1]
        for side, colour, label in (("engine", "0.6", "engine and V alone"), ("off", orange, "keeps nothing"),
                                    ("on", blue, "keeps everything")):  # fmt: skip
            speed.plot(clients, [row[f"tokens_{side}"] for row in rows], "o-", color=colour, label=label)
        for quantile, style in (("p50", "o-"), ("p99", "o--")):
            label = f"first token, {quantile}"
            wait.plot(clients, [row["first_on"][quantile] for row in rows], style, color=blue, label=label)
        speed.set_title(f"{name}: tokens/s by clients", loc="left")
        wait.set_title(f"{name}: milliseconds by clients", loc="left")
    for axis in axes:
        axis.set(xscale="log", yscale="log", xlabel="clients")
        axis.set_xticks(CLIENTS, [str(count) for count in CLIENTS])
        axis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    picture.savefig(FOLDER / f"{results.path.stem}.png", dpi=130)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=("tiny", "smollm2"), default=["tiny", "smollm2"])
    options.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    options.add_argument("--repeats", type=int, default=5, help="rounds; three times as many at 64 clients")
    given = options.parse_args()
    results = Results("load", seeds=given.seeds, quick=given.quick)
    tables: dict[str, Any] = {}
    if results.path.exists():
        tables = json.loads(results.path.read_text())["details"].get("by_clients", {})
    levels = (4, 64) if given.quick else given.clients
    with tempfile.TemporaryDirectory(prefix="journeyman-load-") as folder:
        for subject in subjects(given.only, Path(folder), given.quick):
            process = Process(serve_with_switch, (subject.source,), Path(folder))
            process.start()
            try:
                bare = Bare(subject)
                rows = {row["clients"]: row for row in tables.get(subject.name, [])}
                for clients in levels:
                    repeats = 2 if given.quick else given.repeats * (3 if clients == 64 else 1)
                    rows[clients] = note(results, subject, clients, rounds(process, bare, subject, clients, repeats))
                tables[subject.name] = [rows[count] for count in sorted(rows)]
            finally:
                process.stop()
    results.detail("by_clients", tables)
    results.detail("load_average", os.getloadavg())
    results.write()
    if not given.quick:
        draw(results)


if __name__ == "__main__":
    main()
