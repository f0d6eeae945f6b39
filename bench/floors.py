"""What this machine can do at most: matrix rates and memory bandwidth, and what a model needs of them.

    python -m bench.floors

Figures: the best rate of matrix products in bfloat16 and float32 (TFLOP/s) over several shapes, and the rate at which
a buffer much larger than the caches is read (GB/s). Results are written into memory that exists already: memory fresh
from the system costs more than the product itself (the detail `fresh_64_mib_ms`). Writes bench/results/floors.json.

A floor is the least time for some work: the greater of its FLOPs at the matrix rate and its bytes at the bandwidth.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.common import Results, parser
from journeyman import machine
from journeyman.model.decoder import DecoderConfig

SHAPES = ((2048, 2048, 2048), (4096, 576, 3072), (4096, 1536, 576), (4096, 576, 960))
"""Of products [M, K] x [K, N], as (M, K, N): a square one, and SmolLM2's layers for 4,096 tokens."""


@dataclass(frozen=True)
class Rates:
    """TFLOP/s in each precision, and GB/s."""

    bfloat16: float
    float32: float
    bandwidth: float

    def matrix(self, dtype: torch.dtype) -> float:
        """FLOP/s."""
        return 1e12 * (self.bfloat16 if dtype is torch.bfloat16 else self.float32)


def median_seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Of several runs after one that warms up."""
    work()
    spans: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        spans.append(time.perf_counter() - start)
    return statistics.median(spans)


def measure() -> Rates:
    """This machine's rates, now."""
    machine.prepare()
    best = dict.fromkeys((torch.bfloat16, torch.float32), 0.0)
    for dtype in best:
        for m, k, n in SHAPES:
            a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype).t()
            out = torch.empty(m, n, dtype=dtype)
            seconds = median_seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
            best[dtype] = max(best[dtype], 2 * m * k * n / seconds / 1e12)
    buffer = torch.ones(2**29 // 4)
    read = buffer.numel() * 4 / median_seconds(buffer.sum) / 1e9
    return Rates(best[torch.bfloat16], best[torch.float32], read)


def weights(config: DecoderConfig) -> tuple[int, int]:
    """Numbers in the layers' matrices, and in the vocabulary's head."""
    qkv, attended = (config.heads + 2 * config.kv_heads) * config.head_width, config.heads * config.head_width
    layer = config.hidden_size * (qkv + attended + 3 * config.intermediate_size)
    return config.layers * layer, config.vocab_size * config.hidden_size


def decode_floor(config: DecoderConfig, rows: float, context: float, dtype: torch.dtype, rates: Rates) -> float:
    """Seconds in which `rows` sequences of `context` tokens each can go on by one token.

    FLOPs: 2 a weight and row, the head included, and 4 a query head's number and token of context. Bytes: all weights
    once, and the keys and values of all sequences.
    """
    layers, head = weights(config)
    attention = 4 * config.layers * config.heads * config.head_width * context
    flops = rows * (2 * (layers + head) + attention)
    size = 2 if dtype is torch.bfloat16 else 4
    cached = rows * context * 2 * config.layers * config.kv_heads * config.head_width
    return max(flops / rates.matrix(dtype), size * (layers + head + cached) / (1e9 * rates.bandwidth))


def train_floor(config: DecoderConfig, tokens: float, sampled: float, length: float, dtype: torch.dtype, rates: Rates):
    """Seconds for forward and backward over `tokens`, of which `sampled` have logits, in sequences of `length`.

    FLOPs: 6 a weight of the layers and token, 6 a weight of the head and sampled token, and 12 a query head's number
    and half of the length for attention.
    """
    layers, head = weights(config)
    attention = 12 * config.layers * config.heads * config.head_width * length / 2
    return (6 * tokens * layers + 6 * sampled * head + tokens * attention) / rates.matrix(dtype)


def main() -> None:
    options = parser(__doc__).parse_args()
    results = Results("floors", quick=options.quick)
    start = time.perf_counter()
    rates = measure()
    results.figure("matrix_rate_bf16", rates.bfloat16, "TFLOP/s")
    results.figure("matrix_rate_fp32", rates.float32, "TFLOP/s")
    results.figure("memory_bandwidth", rates.bandwidth, "GB/s")
    results.detail("seconds", time.perf_counter() - start)
    results.write()


if __name__ == "__main__":
    main()
