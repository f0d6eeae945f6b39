"""The narrow part of vLLM 0.32.0 that the engine uses, computed by a tiny decoder of ours.

It knows no option but those the engine gives, and it is as unforgiving as vLLM is: end tokens come from the
model's configuration unless they are ignored, log-probabilities are raw unless they are asked to be processed, a
prefix once read answers from the cache until that is reset, and the process's random state is seeded anew.
"""

from __future__ import annotations

import os
import random
import sys
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from journeyman.model.decoder import Decoder, DecoderConfig


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise OverflowError("seed does not fit an int64")


@dataclass
class EngineArgs:
    model: str
    load_format: str = "auto"
    skip_tokenizer_init: bool = False
    generation_config: str = "auto"
    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 256
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.92
    enable_prefix_caching: bool = False
    logprobs_mode: str = "raw_logprobs"
    disable_log_stats: bool = False


@dataclass
class _Request:
    id: str
    prompt: list[int]
    params: SamplingParams
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[dict[int, Any]] = field(default_factory=list[dict[int, Any]])
    reason: str | None = None


class LLMEngine:
    """What `LLMEngine.from_engine_args` gives. `made` has the newest; `failure` is raised by the next call of that
    name, the weights' only after some of them arrived."""

    made: LLMEngine

    def __init__(self, args: EngineArgs) -> None:
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
            raise RuntimeError("the engine runs in another process: tensors cannot be handed over")
        if args.load_format != "dummy":
            raise FileNotFoundError(f"no weights in {args.model}")
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        config: Any = AutoConfig.from_pretrained(args.model)
        if not config.architectures:
            raise ValueError("the configuration names no architecture")
        self.args, self.eos = args, config.eos_token_id
        self.model = Decoder(DecoderConfig.from_hf(config)).to(getattr(torch, args.dtype)).requires_grad_(False)
        self.waiting: list[_Request] = []
        self.running: list[_Request] = []
        self.cache: dict[tuple[int, ...], Tensor] = {}
        self.failure: dict[str, Exception] = {}
        self.most_running = 0
        self.engine_core = SimpleNamespace(shutdown=lambda: self.failure.update(step=RuntimeError("no groups")))
        LLMEngine.made = self

    @staticmethod
    def from_engine_args(engine_args: EngineArgs) -> LLMEngine:
        return LLMEngine(engine_args)

    def add_request(self, request_id: str, prompt: dict[str, Any], params: SamplingParams) -> str:
        self._fail("add_request")
        tokens = prompt["prompt_token_ids"]
        if not 0 < len(tokens) < (self.args.max_model_len or 0):
            raise ValueError(f"a prompt of {len(tokens)} tokens")
        if any(request.id == request_id for request in self.waiting + self.running):
            raise ValueError(f"there is a request {request_id} already")
        generator = torch.Generator().manual_seed(params.seed or 0)
        self.waiting.append(_Request(request_id, list(tokens), params, generator))
        return f"{request_id}-0123abcd"

    def abort_request(self, request_ids: list[str]) -> None:
        self.waiting = [request for request in self.waiting if request.id not in request_ids]
        self.running = [request for request in self.running if request.id not in request_ids]

    def step(self) -> list[Any]:
        self._fail("step")
        while self.waiting and len(self.running) < self.args.max_num_seqs:
            self.running.append(self.waiting.pop(0))
        self.most_running = max(self.most_running, len(self.running))
        outputs: list[Any] = []
        for request in list(self.running):
            self._sample(request)
            if request.reason or request.params.output_kind is RequestOutputKind.CUMULATIVE:
                outputs.append(self._output(request))
            if request.reason:
                self.running.remove(request)
        return outputs

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any]) -> list[None]:
        assert method == "reload_weights" and kwargs["is_checkpoint_format"], f"vLLM has no worker method {method}"
        known = self.model.state_dict()
        for number, (name, tensor) in enumerate(kwargs["weights_iterator"]):
            if number == 3:
                self._fail("collective_rpc")
            known[name].copy_(tensor)  # what does not come stays as it was, with a warning in the log
        return [None]

    def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        if self.running and not reset_running_requests:
            return False
        self.cache.clear()
        return True

    def _fail(self, call: str) -> None:
        if call in self.failure:
            raise self.failure.pop(call)

    def _sample(self, request: _Request) -> None:
        read = (*request.prompt, *request.tokens)
        if read not in self.cache:
            hidden = self.model.hidden(torch.tensor([read]))[:, -1]
            self.cache[read] = self.model.logits(hidden)[0].float()
        logits, temperature = self.cache[read], request.params.temperature
        processed = (logits / (temperature or 1.0)).log_softmax(-1)
        token = int(logits.argmax())
        if temperature:
            token = int(torch.multinomial(processed.exp(), 1, generator=request.generator))
        reported = processed if self.args.logprobs_mode == "processed_logprobs" else logits.log_softmax(-1)
        request.tokens.append(token)
        request.logprobs.append({token: SimpleNamespace(logprob=float(reported[token]), rank=1)})
        if token in (request.params.stop_token_ids or ()) or (token == self.eos and not request.params.ignore_eos):
            request.reason = "stop"
        elif len(read) + 1 >= (self.args.max_model_len or 0) or len(request.tokens) == request.params.max_tokens:
            request.reason = "length"

    def _output(self, request: _Request) -> Any:
        said = SimpleNamespace(
            token_ids=list(request.tokens),
            logprobs=None if request.params.logprobs is None else list(request.logprobs),
            finish_reason=request.reason,
        )
        return SimpleNamespace(request_id=request.id, finished=request.reason is not None, outputs=[said])


def install(patch: pytest.MonkeyPatch) -> None:
    """Let `import vllm` find this one, in a process where no engine runs yet."""
    patch.setattr("journeyman.engine.vllm.VLLMEngine._running", False)
    vllm: Any = ModuleType("vllm")
    vllm.EngineArgs, vllm.LLMEngine, vllm.SamplingParams = EngineArgs, LLMEngine, SamplingParams
    vllm.inputs, vllm.sampling_params = ModuleType("vllm.inputs"), ModuleType("vllm.sampling_params")
    vllm.inputs.tokens_input = lambda tokens: {"type": "token", "prompt_token_ids": tokens}
    vllm.sampling_params.RequestOutputKind = RequestOutputKind
    for name, module in (("vllm", vllm), ("vllm.inputs", vllm.inputs), ("vllm.sampling_params", vllm.sampling_params)):
        patch.setitem(sys.modules, name, module)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"):
        patch.setenv(name, "unset")  # so that what the engine sets is taken back after the test
        patch.delenv(name)
