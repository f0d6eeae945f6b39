"""A small tokenizer trained on a job's own text, with the shortest chat template there is.

A message costs two tokens more than its content, a special one for who speaks and one for its end:

    <|user|>jump twice<|end|><|assistant|>JUMP JUMP<|end|>

How text is split before byte-pair encoding (1508.07909) learns what to merge, on bytes, so that nothing is
unknown:

- A word takes the one space before it along, as in GPT-2. No space is put before the first word
  (`add_prefix_space=False`), because then text would not survive encoding and decoding. So "jump" and
  " jump" are two tokens, each learned if the texts contain that form often enough: train on whole messages,
  where words stand at the start as often as they will later.
- An underscore belongs to its word: `I_TURN_LEFT` and `lookup_name` can become one token.
- Every digit stands alone and without the space before it, so that a number is spelled the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from journeyman.errors import UsageError

PAD, END = "<|pad|>", "<|end|>"
SPECIAL = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
SMALLEST = 256 + len(SPECIAL)
"""Fewest tokens: every byte and the special ones."""

WORDS = r"'(?:s|t|re|ve|m|ll|d)(?![\p{L}_])| ?[\p{L}\p{M}_]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}_]+|\s+(?!\S)|\s+"

SIMPLE_TEMPLATE = (
    "{%- if tools -%}{{ '<|system|>' }}"
    "{%- for tool in tools -%}"
    "{{ tool.function.name + '(' + (((tool.function.parameters or {}).properties or {}) | join(', ')) + ')' }}"
    "{{ '' if loop.last else '\\n' }}"
    "{%- endfor -%}{{ '<|end|>' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}"
    "{{ raise_exception('unknown role ' + message['role']) }}"
    "{%- endif -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
"""The chat template; it needs the tokens in `SPECIAL`. Tools are a system message of a few tokens, `look(at)`: a small
model reads a long one for a long time before it looks at anything else."""

PLAIN_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '### ' + message['role'] + '\\n' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\\n\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '### assistant\\n' }}{%- endif -%}"
)
"""A chat template in plain text for a base model: it needs nothing of the tokenizer but an end of text."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level tokenizer from texts (message contents, without any role marks).

    The same texts in the same order give the same tokenizer. It holds fewer than `vocab_size` tokens where
    the texts have no more pairs to merge: size the model by `len(tokenizer)`. Saved with `save_pretrained`,
    it loads with `AutoTokenizer`.

    Raises:
        UsageError: `vocab_size` leaves no room for the 256 bytes and the special tokens.
    """
    if vocab_size < SMALLEST:
        raise UsageError(
            f"a vocabulary of {vocab_size} tokens is too small",
            reason=f"256 bytes and {len(SPECIAL)} special tokens take {SMALLEST}",
            fix=f"ask for at least {SMALLEST}; 512 to 2048 suit a tiny model",
        )
    tokenizer = Tokenizer(BPE())
    words = Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(SPECIAL),
        initial_alphabet=ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPECIAL[2:]),
        chat_template=SIMPLE_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
