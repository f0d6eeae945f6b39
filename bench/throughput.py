"""How fast, against what a user would pick instead, on the same work in the same run, and how far from the floor.

    python -m bench.throughput                       everything (about 40 minutes on two cores)
    python -m bench.throughput --only generate step  some of it
    python -m bench.throughput --quick               the tiny model alone

Both sides run in turn, several times after a warm-up; the peer in a process of its own, as a user would start it.
Ratios are medians of the pairs (the peer's seconds over ours), with the least and the greatest.

    generate  32 prompts of 32 tokens, replies of 24 to 96 (the peer has to go on until the longest,
              but for its continuous batching), and one alone
    train     one update on the log-probabilities of replies, sequences of 32 to 160 tokens
    step      a whole step of GRPO, rollouts and one update, against TRL's GRPOTrainer
    fork      16 continuations of one prefix of 1,000 tokens
    growth    tokens/s by batch, by the length read before, and by the model's width

Writes bench/results/throughput.json and throughput.png.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.common import FOLDER, Results, parser
from bench.floors import Rates, decode_floor, measure, train_floor
from bench.logprobs import SUMS, differences
from bench.peers import Child
from journeyman.engine.base import Sampling
from journeyman.engine.native import NativeEngine
from journeyman.jobs.base import Env, Job
from journeyman.learn.credit import group_advantages
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.load import LoadedModel, load
from journeyman.model.render import Renderer
from journeyman.model.tiny import fresh
from journeyman.rollout.runner import RolloutConfig, attempts, rollout
from journeyman.types import Ending, Message, Outcome, StepResult, Task, Trajectory

SECTIONS = ("generate", "train", "step", "fork", "growth")
SETTINGS = ("dynamic", "static", "compiled", "continuous")
"""Of the peer: its cache dynamic, static, static with a compiled forward pass; or its continuous batching."""
DTYPES = ("bfloat16", "float32")

MODELS = ("apprentice", "tiny", "smollm2")

PROMPT, SHORTEST, LONGEST = 32, 24, 96


@dataclass(frozen=True)
class Subject:
    """A model to measure, and the precision that Journeyman chooses for it here. The peer may have the faster one."""

    name: str
    loaded: LoadedModel
    dtype: torch.dtype

    @property
    def model(self) -> Decoder:
        return self.loaded.model


class Echo(Job):
    """Prompts of words; any reply earns something. For speed alone."""

    name, splits, max_turns = "echo", {"train": 10_000}, 1

    def task(self, split: str, index: int) -> Task:
        words = self.rng(split, index).choice(["red", "green", "blue", "four", "five", "six"], 12)
        return Task(self.name, split, index, (Message("user", " ".join(words)),))

    def env(self, task: Task) -> Env:
        return _Echo()


class _Echo(Env):
    def step(self, reply: str) -> StepResult:
        return StepResult(reward=len(reply) % 7 / 7, terminated=True)

    def expert(self) -> str:
        return "red"


def loaded(name: str) -> LoadedModel:
    """The models that are measured, by name."""
    if name == "smollm2":
        return load("smollm2-135m")
    if name == "apprentice":
        return load("apprentice")
    torch.manual_seed(0)
    return fresh("tiny,vocab=512", [Echo()])


def subjects(names: Sequence[str]) -> list[Subject]:
    return [Subject(n, found := loaded(n), precision_of(found.model)) for n in names]


# -- measuring ------------------------------------------------------------------------------------------------------


def in_turn(ours: Callable[[], float], theirs: Callable[[], float], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each side, one after the other."""
    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(repeats)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def ratio(results: Results, name: str, ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Write down how many times as long the peer took."""
    pairs = [b / a for a, b in zip(ours, theirs, strict=True)]
    results.figure(name, statistics.median(pairs), "times", low=min(pairs), high=max(pairs))
    return statistics.median(pairs)


def prompts(subject: Subject, batch: int, length: int = PROMPT) -> np.ndarray:
    return np.random.default_rng(0).integers(5, subject.model.config.vocab_size, (batch, length))


def our_generate(subject: Subject, tokens: np.ndarray, lengths: Sequence[int]) -> Callable[[], float]:
    """Replies of just these lengths; gives the seconds."""
    longest = tokens.shape[1] + max(lengths)
    engine = NativeEngine(subject.model, slots=len(tokens), context=longest + 1, dtype=subject.dtype)

    def run() -> float:
        start = time.perf_counter()
        for seed, (prompt, length) in enumerate(zip(tokens.tolist(), lengths, strict=True)):
            engine.submit(engine.open(seed), prompt, Sampling(max_tokens=length))
        made = 0
        while engine.busy:
            for reply in engine.step():
                made += len(reply.tokens)
                engine.close(reply.sequence)
        assert made == sum(lengths)
        return time.perf_counter() - start

    return run


def generate(results: Results, found: list[Subject], rates: Rates, repeats: int) -> None:
    lengths = np.random.default_rng(1).integers(SHORTEST, LONGEST + 1, 32).tolist()
    alone: list[float] = []
    for subject in found:
        peer = Child()
        for batch, wanted in ((32, lengths), (1, [64])):
            tokens, label = prompts(subject, batch), f"{subject.name}_b{batch}"
            asked = {
                "what": "generate", "model": subject.name, "prompts": tokens.tolist(), "lengths": wanted
            }  # fmt: skip
            requests = [{**asked, "setting": s, "dtype": d} for s in SETTINGS for d in DTYPES]
            best = surveyed(results, f"generate_{label}", peer, requests, "setting", "dtype")
            mine, theirs = in_turn(
                our_generate(subject, tokens, wanted), lambda best=best, peer=peer: peer.ask(**best)[0], repeats
            )
            times = ratio(results, f"generate_ratio_{label}", mine, theirs)
            for side, spans in (("", mine), ("_transformers", theirs)):
                speed = sum(wanted) / statistics.median(spans)
                results.figure(f"generate_tokens_per_second{side}_{label}", speed, "tokens/s")
            if batch == 1:
                alone.append(times)
            elif subject.name == "apprentice":
                ratio(results, "generate_ratio_tiny", mine, theirs)
            print(f"generate {label}: {times:.1f} x {best['setting']}, {best['dtype']}", flush=True)
        peer.close()
    results.figure("generate_ratio_b1_min", min(alone), "times")
    subject = found[-1]
    seconds, floor = decode_step(subject, 64, rates)
    results.figure("decode_share_of_floor", floor / seconds, "share")
    spent = {"milliseconds": seconds * 1e3, "floor_milliseconds": floor * 1e3}
    results.detail("decode_share_of_floor", {"model": subject.name, **spent})


def surveyed(results: Results, name: str, peer: Child, requests: list[dict[str, Any]], *keys: str) -> dict[str, Any]:
    """The request that the peer is fastest with; all are tried, after a warm-up, and written down."""
    survey: dict[str, float | str] = {}
    best, least = requests[0], float("inf")
    for request in requests:
        label = ", ".join(str(request[key]) for key in keys)
        try:
            peer.ask(**request)
            survey[label] = seconds = min(peer.ask(**request)[0] for _ in range(2))
        except RuntimeError as error:
            survey[label] = str(error)
            continue
        if seconds < least:
            best, least = request, seconds
    results.detail(f"{name}_seconds_of_transformers", survey)
    return best


def decode_step(subject: Subject, batch: int, rates: Rates, tokens: int = 64, read: int = 32) -> tuple[float, float]:
    """Seconds of decoding one token in each of `batch` sequences, the prompts' reading taken away, and the floor."""
    both = [our_generate(subject, prompts(subject, batch, read), [count] * batch) for count in (4, 4 + tokens)]
    spans = [statistics.median([run() for _ in range(4)][1:]) for run in both]
    context = read + 4 + tokens / 2
    return (spans[1] - spans[0]) / tokens, decode_floor(subject.model.config, batch, context, subject.dtype, rates)


def episodes(subject: Subject, count: int) -> list[Trajectory]:
    """Sequences of 32 to 160 tokens, three fifths of each sampled; no two with the same prompt."""
    rng = np.random.default_rng(2)
    found: list[Trajectory] = []
    for i in range(count):
        length = int(rng.integers(32, 161))
        mask = np.arange(length) >= length - length * 3 // 5
        found.append(
            Trajectory(
                id=str(i),
                task=Task("echo", "train", i, ()),
                group=str(i),
                step=0,
                policy_version=0,
                temperature=1.0,
                tokens=rng.integers(5, subject.model.config.vocab_size, length).astype(np.int32),
                mask=mask,
                logprobs=np.where(mask, -3.0, 0.0).astype(np.float32),
                values=np.full(length, np.nan, np.float32),
                turns=(),
                outcome=Outcome(0.0, Ending.TERMINATED),
            )
        )
    return found


def precision_of(model: Decoder) -> torch.dtype:
    return getattr(torch, Learner(model, None, UpdateConfig(), keep_reference=False).precision)


def learner_of(subject: Subject) -> Learner:
    config = UpdateConfig(
        policy=OptimizerConfig(learning_rate=1e-5),
        minibatches=1,
        normalize=False,
        max_kl=1e9,
    )
    return Learner(subject.model, None, config, keep_reference=False)


def train(results: Results, found: list[Subject], rates: Rates, repeats: int) -> None:
    for subject in found:
        peer = Child()
        batch = episodes(subject, 64 if subject.name == "smollm2" else 256)
        advantages = [t.mask.astype(np.float32) for t in batch]
        learner = learner_of(subject)

        def ours(learner: Learner = learner, batch: Any = batch, advantages: Any = advantages) -> float:
            start = time.perf_counter()
            learner.update_policy(batch, advantages, np.random.default_rng(0))
            return time.perf_counter() - start

        replies = [int(t.mask.sum()) for t in batch]
        asked = {
            "what": "train", "model": subject.name, "sequences": [t.tokens.tolist() for t in batch], "replies": replies
        }  # fmt: skip
        precisions = ("autocast", "bfloat16") if subject.name == "smollm2" else ("autocast", "bfloat16", "float32")
        requests = [{**asked, "precision": p, "budget": b} for p in precisions for b in (2048, 8192)]
        best = surveyed(results, f"train_{subject.name}", peer, requests, "precision", "budget")
        peer.close()
        peer = Child()  # without the memory of the others
        mine, theirs = in_turn(ours, lambda best=best, peer=peer: peer.ask(**best)[0], repeats)
        tokens, spent = sum(len(t) for t in batch), statistics.median(mine)
        times = ratio(results, f"train_ratio_{subject.name}", mine, theirs)
        for side, spans in (("", mine), ("_transformers", theirs)):
            results.figure(
                f"train_tokens_per_second{side}_{subject.name}", tokens / statistics.median(spans), "tokens/s"
            )
        floor = train_floor(subject.model.config, tokens, sum(replies), tokens / len(batch), subject.dtype, rates)
        results.figure(f"train_share_of_floor_{subject.name}", floor / spent, "share")
        if subject.name == "smollm2":
            results.figure("train_share_of_floor", floor / spent, "share")
        peer.close()
        print(f"train {subject.name}: {times:.1f} x {best['precision']}, {floor / spent:.0%} of the floor", flush=True)


def our_steps(subject: Subject, tasks: int, group: int, tokens: int, count: int) -> list[float]:
    """Seconds of whole steps of GRPO: rollouts, one update, new weights in the engine."""
    job, learner = Echo(), learner_of(subject)
    renderer = Renderer(subject.loaded.tokenizer)
    engine = NativeEngine(subject.model, slots=tasks * group, context=256, dtype=subject.dtype)
    config = RolloutConfig(max_reply_tokens=tokens)
    spans: list[float] = []
    drawn = [job.task("train", i) for i in range(count * tasks)]
    for number in range(count):
        start = time.perf_counter()
        chosen = drawn[number * tasks : (number + 1) * tasks]
        orders = attempts(chosen, repeats=group, prefix=f"s{number}", seed=0)
        played = list(rollout(engine, renderer, {job.name: job}, orders, config))
        learner.update_policy(played, group_advantages(played, divide_by_std=True), np.random.default_rng(0))
        engine.load(learner.policy, learner.version)
        spans.append(time.perf_counter() - start)
    return spans


def step(results: Results, found: list[Subject], rates: Rates, repeats: int) -> None:
    for subject in found:
        if subject.name == "apprentice":
            continue
        tasks, group, tokens = (32, 8, 24) if subject.name == "tiny" else (8, 8, 48)
        renderer, job, tokenizer = Renderer(subject.loaded.tokenizer), Echo(), subject.loaded.tokenizer
        spoken = [tokenizer.decode(renderer.open(job.task("train", i).messages)) for i in range(tasks)]
        survey: dict[str, list[float]] = {}
        for bf16 in (True, False):
            peer, arguments = Child(), [spoken, group, tokens, bf16, repeats + 1]
            spans = peer.ask(what="step", model=subject.name, arguments=arguments)[1:]
            survey["bfloat16" if bf16 else "float32"] = spans
            peer.close()
        results.detail(f"step_{subject.name}_seconds_of_trl", survey)
        theirs = min(survey.values(), key=statistics.median)
        mine = our_steps(subject, tasks, group, tokens, repeats + 1)[1:]
        times = ratio(results, f"rl_step_ratio_{subject.name}", mine, theirs)
        for side, spans in (("", mine), ("_trl", theirs)):
            speed = tasks * group / statistics.median(spans)
            results.figure(f"rollouts_per_second{side}_{subject.name}", speed, "rollouts/s")
        print(f"step {subject.name}: {times:.1f} x TRL", flush=True)


def fork(results: Results, found: list[Subject], rates: Rates, repeats: int) -> None:
    """Everything, over one reading of the prefix and the same continuations of prefixes that have been read."""
    subject, count, tokens, length = found[-1], 16, 32, 1000
    engine = NativeEngine(subject.model, slots=count + 1, context=length + tokens + 8, dtype=subject.dtype)
    prefix = prompts(subject, 1, length)[0].tolist()

    def finish() -> None:
        while engine.busy:
            engine.step()

    def read() -> tuple[int, float]:
        start = time.perf_counter()
        sequence = engine.open(0)
        engine.submit(sequence, prefix, Sampling(max_tokens=1))
        finish()
        return sequence, time.perf_counter() - start

    def go_on(twins: list[int]) -> float:
        start = time.perf_counter()
        for twin_ in twins:
            engine.submit(twin_, [], Sampling(max_tokens=tokens))
        finish()
        return time.perf_counter() - start

    shares: list[float] = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        first, reading = read()
        twins = [engine.fork(first, seed) for seed in range(count)]
        go_on(twins)
        whole = time.perf_counter() - start
        for sequence in twins:
            engine.close(sequence)
        twins = [engine.fork(first, seed) for seed in range(count)]
        continuing = go_on(twins)
        for sequence in (first, *twins):
            engine.close(sequence)
        shares.append(whole / (reading + continuing))
    results.figure(
        "fork16_cost_ratio", statistics.median(shares[1:]), "times", low=min(shares[1:]), high=max(shares[1:])
    )


def growth(results: Results, found: list[Subject], rates: Rates, repeats: int) -> None:
    """Tokens/s as things get larger: replies of 32 tokens, against `transformers` with its dynamic cache."""
    by_batch: dict[str, Any] = {}
    for subject in (found[0], found[-1]):
        peer = Child()
        rows: list[dict[str, float]] = []
        small = subject.name != "smollm2"
        for batch in (1, 2, 8, 32, 128, 512) if small else (1, 8, 32, 64, 128):
            tokens = prompts(subject, batch)
            row: dict[str, float] = {"batch": batch}
            if small or batch <= 32:  # first, so that it has started when ours runs
                asked = {
                    "what": "generate", "model": subject.name, "dtype": "float32" if small else "bfloat16",
                    "prompts": tokens.tolist(), "lengths": [32] * batch, "setting": "dynamic",
                }  # fmt: skip
                row["transformers"] = batch * 32 / min(peer.ask(**asked)[0] for _ in range(2))
            ours = our_generate(subject, tokens, [32] * batch)
            row["ours"] = batch * 32 / min(ours(), ours(), ours())
            rows.append(row)
        peer.close()
        by_batch[subject.name] = rows
    results.detail("growth_by_batch", by_batch)
    subject = found[-1]
    rows = []
    for length in (64, 256, 1024, 4096, 8100):
        if length + 40 > subject.model.config.max_positions:
            continue
        ends = [our_generate(subject, prompts(subject, 1, length), [count]) for count in (1, 33)]
        spans = [min(run(), run()) for run in ends]
        each = (spans[1] - spans[0]) / 32 * 1e3
        rows.append({"length": length, "read_tokens_per_second": length / spans[0], "milliseconds_per_token": each})
    results.detail("growth_by_length", {subject.name: rows})
    rows = []
    for width in (64, 128, 256, 512):
        torch.manual_seed(0)
        wide = Subject("", LoadedModel(Decoder(DecoderConfig.tiny(512, width=width)), None, None, ""), found[0].dtype)
        ours = our_generate(wide, prompts(wide, 32), [32] * 32)
        rows.append({"width": width, "ours": 1024 / min(ours(), ours(), ours())})
    results.detail("growth_by_width", rows)


def draw(results: Results) -> None:
    """Ratios as bars, shares of the floor, and growth."""
    import json

    import matplotlib.pyplot as plt

    from journeyman.report import palette

    kept = json.loads(results.path.read_text())
    figures, details = kept["figures"], kept["details"]
    blue, orange = palette.BEAD.hex(1.0), palette.BEAD.hex(0.0)
    names = {
        "generate_ratio_smollm2_b32": "generate, SmolLM2, 32 at once",
        "generate_ratio_smollm2_b1": "generate, SmolLM2, alone",
        "generate_ratio_apprentice_b32": "generate, tiny, 32 at once",
        "generate_ratio_apprentice_b1": "generate, tiny, alone",
        "train_ratio_smollm2": "train, SmolLM2",
        "train_ratio_tiny": "train, tiny",
        "rl_step_ratio_smollm2": "GRPO step, SmolLM2",
        "rl_step_ratio_tiny": "GRPO step, tiny",
    }
    shown = [name for name in names if name in figures]
    picture, axes = plt.subplots(1, 3, figsize=(14, 4.2), width_ratios=(1.25, 1, 1), layout="constrained")
    bars = axes[0]
    values = [figures[name]["value"] for name in shown]
    low = [figures[name]["value"] - figures[name]["low"] for name in shown]
    high = [figures[name]["high"] - figures[name]["value"] for name in shown]
    bars.barh(
        [names[name] for name in shown][::-1], values[::-1], xerr=(low[::-1], high[::-1]), color=blue, height=0.62
    )
    for row, value in enumerate(values[::-1]):
        bars.text((value + high[::-1][row]) * 1.06, row, f"{value:.1f}", va="center")
    bars.axvline(1, color="0.4", linewidth=1)
    bars.set_xscale("log")
    bars.set_xlim(0.8, max(values) * 2)
    ticks = (1, 2, 5, 10)
    bars.set_xticks(ticks, [str(tick) for tick in ticks])
    bars.minorticks_off()
    bars.set_title("times as fast as transformers and TRL", loc="left")
    for axis, key, title in (
        (axes[1], "smollm2", "SmolLM2-135M, tokens/s by batch"),
        (axes[2], "apprentice", "tiny model, tokens/s by batch"),
    ):
        rows = details.get("growth_by_batch", {}).get(key, [])
        for side, colour in (("ours", blue), ("transformers", orange)):
            points = [(row["batch"], row[side]) for row in rows if side in row]
            axis.plot(*zip(*points, strict=True), "o-", color=colour, label="Journeyman" if side == "ours" else side)
        axis.set(xscale="log", yscale="log", xlabel="sequences at once")
        axis.set_title(title, loc="left")
        axis.legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    picture.savefig(FOLDER / f"{results.path.stem}.png", dpi=130)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="fewer, for train and step")
    options.add_argument("--repeats", type=int, default=5)
    chosen = options.parse_args()
    results = Results("throughput", quick=chosen.quick)
    rates = measure()
    results.detail(
        "rates", {"bf16_tflops": rates.bfloat16, "fp32_tflops": rates.float32, "bandwidth_gbs": rates.bandwidth}
    )
    found = subjects([name for name in chosen.models if name != "smollm2" or not chosen.quick])
    repeats = 2 if chosen.quick else chosen.repeats
    sections = {"generate": generate, "train": train, "step": step, "fork": fork, "growth": growth}
    for name in ("generate", "fork", "growth") if chosen.quick else chosen.only:
        sections[name](results, found, rates, repeats)
        results.write()
    if not chosen.quick and "generate" in chosen.only:
        gap = differences("smollm2-135m", SUMS, "float32", 64)
        results.figure("logprob_max_difference_fp32", float(np.abs(gap).max()), "nats")
    results.write()
    if not chosen.quick:
        draw(results)


if __name__ == "__main__":
    main()
