"""Checkpoints go in and out of plain `transformers`; what is none, or damaged, is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from journeyman.errors import CheckpointError, UnknownName
from journeyman.model import load as load_module
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.load import load, save
from journeyman.model.render import Renderer
from journeyman.model.value import ValueConfig, ValueFunction
from journeyman.model.weights import read_weights
from journeyman.types import Message
from tests.model.families import VARIANTS, greedy, random_model, random_tokens
from tests.model.templates import TEXTS, tokenizer_with, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 300)


@pytest.fixture
def tiny(tokenizer: PreTrainedTokenizerFast) -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig.tiny(len(tokenizer), width=32, layers=2, heads=2, positions=128))


@pytest.fixture
def folder(tmp_path: Path, tiny: Decoder, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A good checkpoint, for tests to damage."""
    save(tmp_path / "model", tiny, tokenizer)
    return tmp_path / "model"


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_transformers_saved_loads_here(variant: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = random_model(variant, vocab_size=len(tokenizer) + 3)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    tokens_BT = random_tokens(model, rows=2, length=20)
    with torch.no_grad():
        theirs = model(input_ids=tokens_BT).logits
        ours = loaded.model.logits(loaded.model.hidden(tokens_BT))
    assert (ours - theirs).abs().max() < 1e-4
    assert loaded.tokenizer.encode("jump twice") == tokenizer.encode("jump twice")
    assert loaded.source == str(tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_saved_here_says_the_same_in_transformers(
    variant: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    # AutoTokenizer makes a Qwen tokenizer of any that lies beside a Qwen model, and adds an unknown token.
    random_model(variant, vocab_size=len(tokenizer) + 1).save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    save(tmp_path / "ours", loaded.model, loaded.tokenizer)
    same_greedy_text(tmp_path / "ours", loaded.model, loaded.tokenizer)


def test_a_model_from_scratch_says_the_same_in_transformers(
    folder: Path, tiny: Decoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    same_greedy_text(folder, tiny, tokenizer)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["eos_token_id"], config["pad_token_id"]) == (1, 0)
    assert config["bos_token_id"] is None
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 1


def same_greedy_text(folder: Path, decoder: Decoder, tokenizer: PreTrainedTokenizerBase) -> None:
    """Load with `transformers` alone; prompt by its own chat template; compare the greedy continuation."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    renderer = Renderer(tokenizer)
    question = [{"role": "user", "content": "turn left twice and jump"}]
    prompt = theirs.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    assert prompt[0].tolist() == renderer.open([Message("user", "turn left twice and jump")])
    text = theirs.decode(model.generate(prompt, max_new_tokens=20, do_sample=False)[0, prompt.shape[1] :])
    ours = greedy(decoder, prompt[0].tolist(), 20)
    ends = [index for index, token in enumerate(ours) if token in renderer.end_ids]
    assert text == tokenizer.decode(ours[: ends[0] + 1] if ends else ours)


def test_weights_and_value_survive_exactly(tmp_path: Path, tiny: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    value = ValueFunction.start(ValueConfig(target="two_hot", bins=11), tiny)
    torch.nn.init.normal_(value.head.weight)
    save(tmp_path / "model", tiny, tokenizer, value)
    again = load(tmp_path / "model")
    assert all(torch.equal(a, again.model.state_dict()[name]) for name, a in tiny.state_dict().items())
    assert again.value is not None
    assert all(torch.equal(a, again.value.state_dict()[name]) for name, a in value.state_dict().items())
    assert {p.data_ptr() % 64 for p in again.model.parameters()} == {0}  # see weights.py
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_the_type_is_kept_and_can_be_chosen(tmp_path: Path, tiny: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    save(tmp_path / "model", tiny.to(torch.bfloat16), tokenizer)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
    assert next(load(tmp_path / "model").model.parameters()).dtype == torch.float32
    assert next(load(tmp_path / "model", torch.bfloat16).model.parameters()).dtype == torch.bfloat16


def test_all_end_tokens_are_told_to_transformers(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    save(
        tmp_path / "model",
        Decoder(DecoderConfig.tiny(len(tokenizer), width=16, layers=1, heads=2)),
        tokenizer,
    )
    generation = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == sorted(Renderer(tokenizer).end_ids)
    assert len(generation["eos_token_id"]) == 2


# -- layouts of a checkpoint -----------------------------------------------------------------------------


def test_several_files_with_an_index(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = random_model("llama", vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert torch.equal(load(tmp_path).model.state_dict()["model.norm.weight"], model.state_dict()["model.norm.weight"])
    next(iter(sorted(tmp_path.glob("model-*.safetensors")))).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load(tmp_path)


def test_a_pickled_checkpoint(folder: Path, tiny: Decoder) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny.state_dict(), folder / "pytorch_model.bin")
    assert torch.equal(load(folder).model.model.norm.weight, tiny.model.norm.weight)


def test_a_body_without_head_and_computed_leftovers(folder: Path, tiny: Decoder) -> None:
    bare = {name.removeprefix("model."): tensor for name, tensor in tiny.state_dict().items()}
    bare["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(bare, folder / "model.safetensors")
    assert torch.equal(load(folder).model.model.embed_tokens.weight, tiny.model.embed_tokens.weight)


def test_a_head_that_is_not_tied_after_all(folder: Path, tiny: Decoder) -> None:
    state = dict(tiny.state_dict())
    save_file({**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    assert load(folder).model.lm_head is None
    head = torch.randn_like(state["model.embed_tokens.weight"])
    save_file({**state, "lm_head.weight": head}, folder / "model.safetensors")
    loaded = load(folder).model
    assert loaded.lm_head is not None and torch.equal(loaded.lm_head.weight, head)
    assert loaded.config.to_hf().tie_word_embeddings is False


# -- what is wrong with a checkpoint ---------------------------------------------------------------------


def cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        state = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        change(state)
        save_file(state, folder / "model.safetensors")

    return edit


def edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return edit


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config cut": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "config of something else": (
        lambda f: (f / "config.json").write_text('{"job": "scan"}'),
        "cannot be read",
    ),
    "unknown family": (edit_config(model_type="martian"), "cannot be read"),
    "quantized": (edit_config(quantization_config={"quant_method": "gptq", "bits": 4}), "is quantized"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
    "weights cut": (cut_weights, "is damaged"),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "is damaged"),
    "tensor missing": (edit_weights(lambda s: s.pop("model.norm.weight")), "model.norm.weight is missing"),
    "tensor misshapen": (
        edit_weights(lambda s: s.update({"model.norm.weight": torch.ones(7)})),
        r"has shape \[7\], not \[32\]",
    ),
    "tensor too many": (
        edit_weights(lambda s: s.update({"model.layers.7.mlp.up_proj.weight": torch.ones(7)})),
        "has no place",
    ),
    "not a number": (
        edit_weights(lambda s: s["model.norm.weight"].__setitem__(3, float("nan"))),
        "not finite",
    ),
    "config of another shape": (edit_config(num_hidden_layers=5), "is missing"),
    "no tokenizer": (lambda f: [x.unlink() for x in f.glob("tokenizer*")], "no readable tokenizer"),
    "tokenizer cut": (lambda f: (f / "tokenizer.json").write_text('{"version"'), "no readable tokenizer"),
    "index cut": (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_explained(name: str, folder: Path) -> None:
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert caught.value.fix


def test_a_tokenizer_larger_than_the_model(folder: Path) -> None:
    train_tokenizer(TEXTS, 400).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load(folder)


def test_folders_that_are_something_else(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"did you mean .*model"):
        load(folder.parent)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge it"):
        load(adapter)
    with pytest.raises(CheckpointError, match="is a file"):
        load(folder / "config.json")
    with pytest.raises(CheckpointError, match="there is no folder"):
        load(tmp_path / "nowhere")


# -- names -----------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(load_module, "snapshot_download", unreachable)


@pytest.mark.usefixtures("no_network")
def test_the_hub_out_of_reach() -> None:
    with pytest.raises(CheckpointError, match="Hub cannot be reached") as caught:
        load("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert "smollm2-135m" in caught.value.fix
    with pytest.raises(UnknownName, match="did you mean smollm2-135m"):
        load("smolm2-135")


def test_a_name_that_cannot_be() -> None:
    with pytest.raises(UnknownName):
        load("a/b/c")


def test_a_model_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str, **_: object) -> str:
        asked.append(name)
        return str(folder)

    monkeypatch.setattr(load_module, "snapshot_download", download)
    loaded = load("someone/some-model")
    assert (asked, loaded.source) == (["someone/some-model"], "someone/some-model")
    assert huggingface_hub.snapshot_download is not download


# -- writing ---------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_what_was_there(
    folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(load_module, "save_file", full)
    other = Decoder(DecoderConfig.tiny(len(tokenizer), width=16, layers=1, heads=2))
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(folder, other, tokenizer)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert os.listdir(folder.parent) == ["model"]


def test_saving_again_replaces(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (folder / "left-over.txt").write_text("of the old one")
    other = Decoder(DecoderConfig.tiny(len(tokenizer), width=16, layers=1, heads=2))
    save(folder, other, tokenizer)
    assert load(folder).model.config.hidden_size == 16
    assert not (folder / "left-over.txt").exists()
    assert os.listdir(folder.parent) == ["model"]


def test_killed_between_the_renames_the_old_one_is_found(
    folder: Path, tiny: Decoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    os.replace(folder, folder.with_name(".model.replaced"))
    assert load(folder).model.config.hidden_size == 32
    save(folder, tiny, tokenizer)
    assert os.listdir(folder.parent) == ["model"]


def test_a_half_written_draft_is_nothing(folder: Path, tiny: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    shutil.copytree(folder, folder.with_name(".model.draft"))
    (folder.with_name(".model.draft") / "junk").write_text("")
    save(folder, tiny, tokenizer)
    assert os.listdir(folder.parent) == ["model"]
    assert not (folder / "junk").exists()


def test_reading_weights_reads_them_all(folder: Path, tiny: Decoder) -> None:
    assert read_weights(folder).keys() == tiny.state_dict().keys()
