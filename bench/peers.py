"""The peers that bench/throughput.py measures beside us: `transformers` generate and a plain training loop, and TRL.

They run in a process of their own, `python -m bench.peers`, as a user would start them: without the allocator settings
that we make for our own process. One request a line (JSON), one answer a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from journeyman.model.decoder import Decoder


def twin(model: Decoder, dtype: torch.dtype) -> LlamaForCausalLM:
    """The same weights as a model of `transformers`."""
    theirs = LlamaForCausalLM(model.config.to_hf())
    state = {name: tensor for name, tensor in model.state_dict().items() if "rotary" not in name}
    missing = theirs.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}
    return theirs.to(dtype).eval()


def generator(model: LlamaForCausalLM, prompts: torch.Tensor, tokens: int, setting: str) -> Callable[[], float]:
    """`generate` of exactly `tokens` tokens for each row of prompts [B, T]; gives its seconds.

    Args:
        setting: `dynamic` cache (the default of transformers), `static`, or `compiled` (static, torch.compile).
    """
    options: dict[str, Any] = {
        "max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": True, "temperature": 1.0,
        "top_k": 0, "top_p": 1.0, "pad_token_id": 0, "eos_token_id": None,
    }  # fmt: skip
    if setting != "dynamic":
        options["cache_implementation"] = "static"
    if setting == "compiled":
        torch._dynamo.reset()  # else models measured before count against its limit of recompilations
        model.forward = torch.compile(model.forward)  # type: ignore[method-assign]

    def run() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
        assert out.shape[1] == prompts.shape[1] + tokens
        return time.perf_counter() - start

    return run


def continuous(
    model: LlamaForCausalLM, prompts: Sequence[Sequence[int]], lengths: Sequence[int]
) -> Callable[[], float]:
    """Its continuous batching, where every reply ends at its own length; gives the seconds."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=max(lengths),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=0,
        eos_token_id=-1,
    )
    manager = model.init_continuous_batching(generation_config=config)
    manager.start()

    def run() -> float:
        start, made, waiting = time.perf_counter(), 0, len(prompts)
        for prompt, length in zip(prompts, lengths, strict=True):
            manager.add_request(list(prompt), max_new_tokens=length)
        while waiting:
            found = manager.get_result(timeout=60)
            if found is None:
                raise RuntimeError("continuous batching gave no answer for a minute")
            if found.is_finished():
                made, waiting = made + len(found.generated_tokens), waiting - 1
        assert made == sum(lengths)
        return time.perf_counter() - start

    return run


def trainer(
    model: LlamaForCausalLM, sequences: Sequence[np.ndarray], replies: Sequence[int], budget: int, precision: str
) -> Callable[[], float]:
    """One update on the log-probabilities of the replies, as a plain loop does it: batches padded to their longest
    sequence, sorted by length, of at most `budget` padded tokens; AdamW, gradients clipped.

    Args:
        replies: how many tokens at the end of each sequence count.
        precision: `float32`, `autocast` (bfloat16 by autocast), or `bfloat16` (the weights themselves).
    """
    if precision == "bfloat16":
        model = model.to(torch.bfloat16)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    batches: list[list[int]] = []
    for i in order:
        if not batches or (len(batches[-1]) + 1) * len(sequences[batches[-1][0]]) > budget:
            batches.append([])
        batches[-1].append(i)

    def run() -> float:
        start = time.perf_counter()
        for rows in batches:
            longest = len(sequences[rows[0]])
            tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
            mask, counted = torch.zeros_like(tokens), torch.zeros(len(rows), longest, dtype=torch.bool)
            for r, i in enumerate(rows):
                tokens[r, : len(sequences[i])] = torch.from_numpy(sequences[i])
                mask[r, : len(sequences[i])] = 1
                counted[r, len(sequences[i]) - replies[i] : len(sequences[i])] = True
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
                logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
            chosen = logits[:, :-1][counted[:, 1:]].float().log_softmax(-1)
            loss = -chosen.gather(-1, tokens[counted][:, None]).sum() / sum(replies)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return run


def trl_step(model: Decoder, tokenizer: Any, prompts: Sequence[str], group: int, tokens: int, bf16: bool, steps: int):
    """Seconds of each step of TRL's GRPOTrainer: `group` completions of up to `tokens` for each prompt, one update.

    Its fastest settings on a processor: no reference model (beta 0), one iteration, no logging or saving.
    """
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    spans: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            spans.append(time.perf_counter() - self.start)

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(np.mean([token % 2 == 0 for token in ids])) if ids else 0.0 for ids in completion_ids]

    batch = len(prompts) * group
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=bf16, per_device_train_batch_size=batch, num_generations=group,
            max_completion_length=tokens, max_steps=steps, beta=0.0, num_iterations=1, learning_rate=1e-5,
            logging_strategy="no", save_strategy="no", report_to=[], disable_tqdm=True, temperature=1.0, top_k=0,
            gradient_checkpointing=False, shuffle_dataset=False,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=twin(model, torch.float32),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts] * steps),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return spans


def subject(name: str) -> Any:
    """A model by the name that throughput.py gives it: (decoder, tokenizer)."""
    from bench.throughput import loaded

    return loaded(name)


def prepared(request: dict[str, Any]) -> Callable[[], float]:
    """What a request asks to be timed."""
    model = subject(request["model"]).model
    if request["what"] == "generate":
        dtype = getattr(torch, request["dtype"])
        if request["setting"] == "continuous":
            return continuous(twin(model, dtype), request["prompts"], request["lengths"])
        longest = max(request["lengths"])
        return generator(twin(model, dtype), torch.tensor(request["prompts"]), longest, request["setting"])
    sequences = [np.array(sequence, np.int64) for sequence in request["sequences"]]
    return trainer(twin(model, torch.float32), sequences, request["replies"], request["budget"], request["precision"])


class Child:
    """The process in which peers run. What was asked for once is kept, warm."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "bench.peers"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request: Any) -> list[float]:
        """Seconds; several where the request is of several steps.

        Raises:
            RuntimeError: the peer cannot do it, with what it said.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline() or '{"error": "the process ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["seconds"]

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def main() -> None:
    os.environ.pop("THP_MEM_ALLOC_ENABLE", None)  # ours; torch reads it at its first large tensor
    kept: dict[str, Callable[[], float]] = {}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the peers print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["what"] == "step":
                found = subject(request["model"])
                seconds = trl_step(found.model, found.tokenizer, *request["arguments"])
            else:
                key = json.dumps(request)
                with contextlib.redirect_stdout(sys.stderr):
                    kept[key] = kept.get(key) or prepared(request)
                    seconds = [kept[key]()]
            print(json.dumps({"seconds": seconds}), file=answers, flush=True)
        except Exception as error:  # what does not work here is not the peer's best setting
            print(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}), file=answers, flush=True)


if __name__ == "__main__":
    main()
