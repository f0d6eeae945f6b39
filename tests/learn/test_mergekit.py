"""Merges equal mergekit's on the same checkpoints. It is LGPL: it runs in an environment and a process of its own.

python -m venv /tmp/mergekit && /tmp/mergekit/bin/pip install mergekit==0.1.5
JOURNEYMAN_MERGEKIT=/tmp/mergekit/bin pytest tests/learn/test_mergekit.py
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from journeyman.learn.merge import MergeConfig, Method, merge
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.load import save
from journeyman.model.tokenizer import SMALLEST, train_tokenizer

BIN = Path(os.environ.get("JOURNEYMAN_MERGEKIT", ""))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BIN / "mergekit-yaml").exists(),
        reason="mergekit is not there: set JOURNEYMAN_MERGEKIT to the bin/ of an environment that has it",
    ),
]

MASKS = """
import sys, torch
from mergekit.sparsify import SparsificationMethod, sparsify
from safetensors.torch import load_file
folder, density, seed, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
base = load_file(f"{folder}/base/model.safetensors")
models = [load_file(f"{folder}/{i}/model.safetensors") for i in range(count)]
torch.manual_seed(seed)
random = SparsificationMethod.random
kept = {n: [sparsify(m[n] - base[n], density=density, method=random) for m in models] for n in sorted(base)}
save_file({n: torch.stack(deltas).sum(0) for n, deltas in kept.items()}, f"{folder}/dare.safetensors")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three models that moved away from it, by steps of all sizes, some entries not at all."""
    place = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a b c"], SMALLEST)
    policy = Decoder(DecoderConfig.tiny(len(tokenizer), width=32, layers=2, heads=2, positions=64))
    save(place / "base", policy, tokenizer)
    began = {name: p.detach().clone() for name, p in policy.named_parameters()}
    for number in range(3):
        with torch.no_grad():
            for name, p in policy.named_parameters():
                p.copy_(began[name] + torch.randn_like(p) ** 3 * (torch.rand_like(p) < 0.5) / 100)
        save(place / str(number), policy, tokenizer)
    return place


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def by_mergekit(folder: Path, into: str, method: str, parameters: dict[str, Any], base: bool) -> dict[str, Tensor]:
    models = [{"model": str(folder / str(i)), "parameters": {"weight": 1.0, **parameters}} for i in range(3)]
    order: dict[str, Any] = {"merge_method": method, "models": models, "dtype": "float32"}
    if base:
        order |= {"base_model": str(folder / "base"), "parameters": {"lambda": parameters.get("lambda", 1.0)}}
        models[:] = [{**m, "parameters": {k: v for k, v in m["parameters"].items() if k != "lambda"}} for m in models]
    if method == "ram":
        order["parameters"] = {"epsilon": 1e-5}
        models[:] = [{"model": m["model"]} for m in models]
    file = folder / f"{into}.yaml"
    file.write_text(json.dumps(order))  # JSON is YAML
    done = subprocess.run([BIN / "mergekit-yaml", file, folder / into, "--quiet"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return weights(folder / into)


@pytest.mark.parametrize(
    ("config", "method", "parameters"),
    [
        (MergeConfig("average"), "linear", {}),
        (MergeConfig("task", scale=0.4), "task_arithmetic", {"lambda": 0.4}),
        (MergeConfig("ties"), "ties", {"density": 0.2}),
        (MergeConfig("ties", density=0.5, scale=0.7), "ties", {"density": 0.5, "lambda": 0.7}),
        (MergeConfig("ram"), "ram", {}),
    ],
    ids=str,
)
def test_merges_are_mergekits(folder: Path, config: MergeConfig, method: str, parameters: dict[str, Any]) -> None:
    wanted = by_mergekit(folder, f"{method}-{config.kept}", method, parameters, config.needs_base)
    base = weights(folder / "base") if config.needs_base else None
    found = merge([weights(folder / str(i)) for i in range(3)], base, config)
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_dares_masks_are_mergekits(folder: Path) -> None:
    """What is left mergekit 0.1.5 rescales to its L1 norm before, the paper and we by 1 / density: compared without."""
    density, seed = 0.3, 5
    command = [BIN / "python", "-c", MASKS, folder, str(density), str(seed), "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    kept = load_file(folder / "dare.safetensors")
    base = weights(folder / "base")
    method: Method = "dare"
    found = merge([weights(folder / str(i)) for i in range(3)], base, MergeConfig(method, 0.4, density, seed=seed))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, base[name] + 0.4 / density * kept[name], rtol=1e-5, atol=1e-6)
