"""How soon a fresh process answers, and how much memory it takes at most, beside what a user would pick instead.

    python -m bench.resources            about six minutes on two cores; needs pip install 'journeyman[bench]'
    python -m bench.resources --quick    start-up alone, once

Every measurement is a process of its own that ends with its peak resident memory; times are from its start to its end.
Both sides read the same checkpoint (SmolLM2-135M in bfloat16, written to a temporary folder).

    start     load and say one token
    generate  32 prompts of 32 tokens, replies of 64
    step      two steps of GRPO with 64 rollouts of up to 48 tokens, against TRL

Writes bench/results/resources.json.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.common import Results, parser
from journeyman.model.load import load, save

END = r"""
import re
print(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])"""
"""Its peak resident memory in KiB. `getrusage` would count the process that forked it."""

GENERATE = {
    "ours": """
import torch
from journeyman.engine.base import Sampling
from journeyman.engine.native import NativeEngine
from journeyman.model.load import load
engine = NativeEngine(load({folder!r}).model, slots={batch}, context=128, dtype=torch.bfloat16)
for seed in range({batch}):
    engine.submit(engine.open(seed), range(100 + seed, 132 + seed), Sampling(max_tokens={tokens}))
while engine.busy:
    engine.step()""",
    "transformers": """
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({folder!r}, dtype=torch.bfloat16)
prompts = torch.arange(100, 132)[None] + torch.arange({batch})[:, None]
model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens={tokens}, min_new_tokens={tokens},
               do_sample=True, top_k=0, pad_token_id=0)""",
}

STEP = {
    "ours": """
import torch
from bench.throughput import Subject, loaded, our_steps
our_steps(Subject("smollm2", loaded("smollm2"), torch.bfloat16), 8, 8, 48, 2)""",
    "trl": """
import os
os.environ.pop("THP_MEM_ALLOC_ENABLE", None)
from bench.peers import trl_step
from bench.throughput import Echo, loaded
from journeyman.model.render import Renderer
found = loaded("smollm2")
job, renderer = Echo(), Renderer(found.tokenizer)
spoken = [found.tokenizer.decode(renderer.open(job.task("train", i).messages)) for i in range(8)]
trl_step(found.model, found.tokenizer, spoken, 8, 48, True, 2)""",
}


def run(script: str) -> tuple[float, float]:
    """Seconds and peak gigabytes of a fresh process."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script + END], check=True, capture_output=True, text=True
    )
    return time.perf_counter() - started, int(done.stdout.split()[-1]) / 2**20


def compare(results: Results, name: str, scripts: dict[str, str], repeats: int, seconds: bool = False) -> None:
    """In turn, after one of each that warms the disk's cache."""
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in scripts}
    for number in range(repeats + 1):
        for side, script in scripts.items():
            measured = run(script)
            if number:
                found[side].append(measured)
    for side, pairs in found.items():
        spans, peaks = zip(*pairs, strict=True)
        results.figure(f"{name}_peak_gb_{side}", statistics.median(peaks), "GB", low=min(peaks), high=max(peaks))
        if seconds:
            results.figure(f"{name}_seconds_{side}", statistics.median(spans), "s", low=min(spans), high=max(spans))
    print(name, {side: [f"{s:.1f} s, {gb:.2f} GB" for s, gb in pairs] for side, pairs in found.items()}, flush=True)


def main() -> None:
    options = parser(__doc__).parse_args()
    results = Results("resources", quick=options.quick)
    repeats = 1 if options.quick else 3
    with tempfile.TemporaryDirectory() as place:
        folder = str(Path(place) / "model")
        found = load("smollm2-135m")
        save(folder, found.model, found.tokenizer)
        for name, batch, tokens in (("start", 1, 1), ("generate", 32, 64)):
            filled = {side: s.format(folder=folder, batch=batch, tokens=tokens) for side, s in GENERATE.items()}
            compare(results, name, filled, repeats, seconds=name == "start")
            if options.quick:
                break
    if not options.quick:
        compare(results, "step", STEP, repeats)
    results.write()


if __name__ == "__main__":
    main()
