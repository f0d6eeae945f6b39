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

from journeyman.learn.merge import MergeConfig, merge
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

WORK = """
import json, sys, torch
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
from mergekit.sparsify import SparsificationMethod, sparsify
from safetensors.torch import load_file, save_file
folder = sys.argv[1]
work = json.load(open(f"{folder}/work.json"))
for into, order in work["orders"].items():
    run_merge(MergeConfiguration.model_validate(order), f"{folder}/{into}", MergeOptions(quiet=True))
base, *models = (load_file(f"{folder}/{name}/model.safetensors") for name in ("base", "0", "1", "2"))
torch.manual_seed(work["seed"])
cut = dict(density=work["density"], method=SparsificationMethod.random)
kept = {n: [sparsify(m[n] - base[n], **cut) for m in models] for n in sorted(base)}
save_file({n: torch.stack(deltas).sum(0) for n, deltas in kept.items()}, f"{folder}/dare.safetensors")
"""
CASES: dict[str, tuple[MergeConfig, dict[str, Any]]] = {
    "average": (MergeConfig("average"), {"merge_method": "linear"}),
    "task": (MergeConfig("task", scale=0.4), {"merge_method": "task_arithmetic", "parameters": {"lambda": 0.4}}),
    "ties": (MergeConfig("ties"), {"merge_method": "ties"}),
    "ties_half": (MergeConfig("ties", 0.7, 0.5), {"merge_method": "ties", "parameters": {"lambda": 0.7}}),
    "ram": (MergeConfig("ram"), {"merge_method": "ram", "parameters": {"epsilon": 1e-5}}),
}
DARE = MergeConfig("dare", scale=0.4, density=0.3, seed=5)


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


def ordered(folder: Path, config: MergeConfig, order: dict[str, Any]) -> dict[str, Any]:
    """What mergekit is asked for."""
    parameters = {} if config.method == "ram" else {"weight": 1.0}
    if config.method == "ties":
        parameters["density"] = config.kept
    models = [{"model": str(folder / str(i)), "parameters": parameters} for i in range(3)]
    base = {"base_model": str(folder / "base")} if config.needs_base else {}
    return {**order, **base, "models": models, "dtype": "float32"}


@pytest.fixture(scope="module")
def by_mergekit(folder: Path) -> Path:
    """Its results, all in one process, since it takes long to begin."""
    orders = {name: ordered(folder, config, order) for name, (config, order) in CASES.items()}
    (folder / "work.json").write_text(json.dumps({"orders": orders, "seed": DARE.seed, "density": DARE.kept}))
    done = subprocess.run([BIN / "python", "-c", WORK, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", list(CASES))
def test_merges_are_mergekits(by_mergekit: Path, name: str) -> None:
    config, _ = CASES[name]
    wanted = weights(by_mergekit / name)
    base = weights(by_mergekit / "base") if config.needs_base else None
    found = merge([weights(by_mergekit / str(i)) for i in range(3)], base, config)
    assert found.keys() == wanted.keys()
    for tensor_name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[tensor_name], rtol=1e-5, atol=1e-7)


def test_dares_masks_are_mergekits(by_mergekit: Path) -> None:
    """What is left mergekit 0.1.5 rescales to its L1 norm before, the paper and we by 1 / density: compared without."""
    kept, base = load_file(by_mergekit / "dare.safetensors"), weights(by_mergekit / "base")
    found = merge([weights(by_mergekit / str(i)) for i in range(3)], base, DARE)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, base[name] + DARE.factor / DARE.kept * kept[name], rtol=1e-5, atol=1e-6)
