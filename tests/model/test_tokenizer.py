"""The trained tokenizer: small, exact, and the same wherever it is loaded."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from journeyman.errors import UsageError
from journeyman.model.tokenizer import END, PAD, SMALLEST, SPECIAL, train_tokenizer
from journeyman.serve.tools import CallFormat, format_of

WORDS = [
    "walk",
    "run",
    "jump",
    "look",
    "turn",
    "left",
    "right",
    "twice",
    "thrice",
    "and",
    "after",
    "I_TURN_LEFT",
    "lookup_name",
]


def commands() -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=5)) for _ in range(300)] + [f"{i} + {i * 7} =" for i in range(50)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(commands(), 512)


@pytest.mark.parametrize("word", WORDS)
def test_a_frequent_word_is_one_token_in_both_places(tokenizer: PreTrainedTokenizerFast, word: str) -> None:
    assert tokenizer.tokenize(f"{word} {word}") == [word, f"Ġ{word}"]


def test_digits_stand_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("123 + 45 =") == ["1", "2", "3", "Ġ+", "Ġ", "4", "5", "Ġ="]
    assert not [token for token in tokenizer.get_vocab() if sum(c.isdigit() for c in token) > 1]


@given(text=st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_the_template_is_short(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "walk"},
        {"role": "user", "content": "jump twice\n"},
        {"role": "assistant", "content": "run"},
        {"role": "tool", "content": "5"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|system|>walk<|end|><|user|>jump twice\n<|end|><|assistant|>run<|end|><|tool|>5<|end|><|assistant|>"
    )
    assert len(tokenizer.encode(text)) == 2 * 4 + 1 + len(tokenizer.encode("walkjump twice\nrun5"))
    with pytest.raises(Exception, match="unknown role judge"):
        tokenizer.apply_chat_template([{"role": "judge", "content": "x"}])


def test_tools_are_a_few_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    at = {"type": "object", "properties": {"at": {"type": "string"}, "far": {"type": "boolean"}}}
    tools = [
        {"type": "function", "function": {"name": "look", "description": "What is there", "parameters": at}},
        {"type": "function", "function": {"name": "wait"}},
    ]
    said = [{"role": "user", "content": "go"}]
    text = tokenizer.apply_chat_template(said, tools=tools, tokenize=False)
    assert text == "<|system|>look(at, far)\nwait()<|end|><|user|>go<|end|>"
    assert format_of(str(tokenizer.chat_template)) == CallFormat()


@pytest.mark.parametrize("model_type", [None, "llama", "qwen3", "mistral"])
def test_it_is_the_same_after_saving(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, model_type: str | None
) -> None:
    """Beside a model, too: `AutoTokenizer` treats some families' tokenizers in its own way."""
    tokenizer.save_pretrained(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in [
        "walk and  jump 123",
        " é日本\n\n x",
        "<|user|>hi<|end|>",
        "I_TURN_LEFT don't",
        "   ",
        "\t\t- 4",
    ]:
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == text
    chat = [{"role": "user", "content": "jump"}]
    assert again.apply_chat_template(chat) == tokenizer.apply_chat_template(chat)
    assert (again.eos_token_id, again.pad_token_id) == (SPECIAL.index(END), SPECIAL.index(PAD))


def test_the_same_texts_give_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    again = train_tokenizer(iter(commands()), 512)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_its_size_is_bounded() -> None:
    assert len(train_tokenizer(commands(), 280)) == 280
    assert len(train_tokenizer(["ab"], SMALLEST + 100)) <= SMALLEST + 100
    assert len(train_tokenizer([], SMALLEST)) == SMALLEST
    with pytest.raises(UsageError, match="at least 262"):
        train_tokenizer(commands(), SMALLEST - 1)
