"""What all tests share: one thread, fixed seeds, no network."""

from __future__ import annotations

import os

os.environ.update(
    CUBLAS_WORKSPACE_CONFIG=":4096:8",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="agg",
    OMP_NUM_THREADS="1",  # before torch is imported; test processes share the cores already
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_VERBOSITY="error",
)

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("journeyman", deadline=None, derandomize=True, database=None)
settings.load_profile("journeyman")


@pytest.fixture(autouse=True)
def steady() -> Iterator[None]:
    """Each test starts from the same random state and leaves torch's threads and modes as it found them."""
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    assert torch.is_grad_enabled(), "the test left gradients off"
    assert torch.get_default_dtype() == torch.float32, "the test left another default dtype"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
