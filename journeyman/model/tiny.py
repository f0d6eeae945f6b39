"""Tiny models from scratch: a decoder and a tokenizer made for the jobs at hand.

A specification is `tiny`, or `tiny,width=64,layers=3,heads=4,vocab=512,positions=1024`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from transformers import PreTrainedTokenizerBase

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs.base import Job
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.load import LoadedModel
from journeyman.model.tokenizer import train_tokenizer

SAMPLE = 500
"""Tasks of each job whose text the tokenizer is trained on."""


@dataclass(frozen=True)
class TinyConfig:
    """The shape of a model from scratch."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    vocab: int = 512
    positions: int = 1024

    @staticmethod
    def parse(spec: str) -> TinyConfig:
        """Read a specification such as `tiny,width=64`.

        Raises:
            UsageError: an option is unknown or not a positive whole number, or heads do not divide the width.
        """
        options: dict[str, int] = {}
        known = [f.name for f in fields(TinyConfig)]
        for part in spec.split(",")[1:]:
            name, _, amount = part.partition("=")
            if name not in known:
                raise UnknownName("option of a tiny model", name, known)
            if not amount.isdigit() or int(amount) < 1:
                raise UsageError(f"{name} of a tiny model must be a positive whole number, got {amount!r}")
            options[name] = int(amount)
        config = TinyConfig(**options)
        if config.width % (2 * config.heads):
            raise UsageError(
                f"width {config.width} cannot be split into {config.heads} heads of even width",
                fix="make width a multiple of twice the heads",
            )
        return config


def is_tiny(spec: str) -> bool:
    """Whether the name asks for a model from scratch."""
    return spec.split(",")[0] == "tiny"


def fresh(spec: str, jobs: Sequence[Job]) -> LoadedModel:
    """A model with random weights (from torch's global generator) and a tokenizer for the jobs' text."""
    words = itertools.chain.from_iterable(texts(job) for job in jobs)
    return untaught(spec, train_tokenizer(words, TinyConfig.parse(spec).vocab))


def untaught(spec: str, tokenizer: PreTrainedTokenizerBase) -> LoadedModel:
    """The same with a tokenizer that is there already, such as a teacher's; the specification's `vocab` is not used."""
    config = TinyConfig.parse(spec)
    decoder = DecoderConfig.tiny(
        len(tokenizer),
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        positions=config.positions,
    )
    return LoadedModel(Decoder(decoder), tokenizer, None, spec)


def texts(job: Job) -> Iterator[str]:
    """What is said in the job's training tasks: openings, and an expert's replies with what comes back."""
    for task in job.tasks("train", SAMPLE):
        yield from (message.content for message in task.messages)
        env = job.env(task)
        for _ in range(job.max_turns):
            reply = env.expert()
            if reply is None:
                break
            result = env.step(reply)
            yield reply
            yield result.observation
            if result.terminated or result.truncated:
                break
