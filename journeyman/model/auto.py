"""Any other architecture of `transformers`, behind the decoder's interface: slower, and more general.

`transformers` computes everything but attention itself, which it lets others provide: it hands over queries,
keys and values after positions were applied, which is just what an `Attend` takes. So the engine samples
from such a model with its own cache, and the trainer learns with a causal square, as with a decoder of ours.

What cannot be done this way is refused when it is loaded: the logits of two packed sequences are compared
with those that `transformers` computes by itself.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from journeyman.errors import CheckpointError
from journeyman.model.decoder import Attend, Decoder, DecoderConfig, Packed, Trunk

if TYPE_CHECKING:  # its models take a second to import, which is for those to wait who need them
    from transformers import PreTrainedModel

NAME = "journeyman"
"""Under this name our attention is registered with `transformers`."""

GROWING_ROPE = ("dynamic", "longrope")
"""Rotary variants whose frequencies change once a sequence is longer than the model was trained for."""


@dataclass(frozen=True)
class _Layer:
    """How a layer was seen to attend."""

    heads: int
    kv_heads: int
    width: int
    value_width: int
    window: int | None


_ATTEND: ContextVar[Attend] = ContextVar("attend")
_LAYERS: ContextVar[dict[int, _Layer] | None] = ContextVar("layers", default=None)
"""Where layers are noted while a model is looked at."""


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """What `transformers` calls for each layer: [1, H, N, E] in, [1, N, H, E] out."""
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise NotImplementedError(f"its attention uses {name}")
    natural = query.shape[-1] ** -0.5
    scaling = options.get("scaling")
    if scaling is not None and scaling != natural:
        query = query * (scaling / natural)
    layers = _LAYERS.get()
    if layers is not None:  # only looked at: any answer of the right shape will do
        window = options.get("sliding_window")
        layers[int(module.layer_idx)] = _Layer(query.shape[1], key.shape[1], query.shape[3], value.shape[3], window)
        return query.transpose(1, 2)[..., : value.shape[3]], None
    qkv = torch.cat([x.squeeze(0).transpose(0, 1).to(value.dtype) for x in (query, key, value)], 1)
    return _ATTEND.get()(int(module.layer_idx), qkv).unsqueeze(0), None


class AutoTrunk(Trunk):
    """The body of a `transformers` model in the place of our layers."""

    def __init__(self, body: nn.Module, config: DecoderConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.body = body

    @property
    def embed_tokens(self) -> nn.Embedding:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The body's own, under our name and not registered twice."""
        return cast(Any, self.body).get_input_embeddings()

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend, beside: Tensor | None = None) -> Tensor:
        """Final hidden states [N, D] of flat tokens [N] at their positions [N]."""
        token = _ATTEND.set(attend)
        read: dict[str, Tensor] = {"input_ids": tokens[None]}
        if beside is not None:
            embedded = self.embed_tokens(tokens)
            read = {"inputs_embeds": (embedded + beside.to(embedded.dtype))[None]}
        try:
            out = self.body(**read, position_ids=positions[None], use_cache=False)
        finally:
            _ATTEND.reset(token)
        return out.last_hidden_state.squeeze(0)

    def _at_once(self, packed: Packed, beside: Tensor | None) -> None:
        """Nothing of ours computes these layers."""


class AutoDecoder(Decoder):
    """A causal language model of `transformers` as a decoder. Dropout is off: what samples is what learns.

    Attributes:
        whole: the model that `transformers` loaded, sharing its weights with this one; it writes checkpoints.
    """

    def __init__(self, whole: PreTrainedModel, config: DecoderConfig) -> None:
        nn.Module.__init__(self)
        for module in whole.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.config = config
        self.model = AutoTrunk(whole.base_model, config)
        self.lm_head = cast(Any, whole).get_output_embeddings()
        self._whole = (whole,)  # in a tuple, so that its parameters are not listed twice
        hf: Any = whole.config.get_text_config()
        scale, divisor = getattr(hf, "logit_scale", None) or 1.0, getattr(hf, "logits_scaling", None) or 1.0
        self._scale = float(scale) / float(divisor)
        self._cap: float | None = getattr(hf, "final_logit_softcapping", None)

    @property
    def whole(self) -> PreTrainedModel:
        return self._whole[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [..., V] of hidden states [..., D]."""
        logits = cast(nn.Module, self.lm_head)(hidden) * self._scale
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    def log_probability(self, hidden: Tensor, token: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [A], float32, of tokens [A] chosen in hidden states [A, D]."""
        distribution = (self.logits(hidden).float() / temperature[:, None]).log_softmax(-1)
        entropy = -(distribution.exp() * distribution).sum(-1)
        return distribution.gather(-1, token[:, None]).squeeze(-1), entropy


def load_auto(folder: Path, dtype: torch.dtype) -> AutoDecoder:
    """Load a folder with `AutoModelForCausalLM` and make sure that the logits come out the same.

    Raises:
        CheckpointError: tensors are missing or misshapen, or the architecture cannot be run this way.
    """
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # a model's own code raises whatever it likes
        raise CheckpointError(
            f"transformers cannot load {folder}",
            reason=f"{type(error).__name__}: {error}",
            fix="check that it is the checkpoint of a causal language model",
        ) from error
    whole, info = loaded
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise CheckpointError(
            f"the checkpoint {folder} does not fit its configuration",
            reason=f"missing or of another shape: {', '.join(wrong[:5])}",
        )
    return wrap(whole)


def wrap(whole: PreTrainedModel) -> AutoDecoder:
    """Put a loaded model behind the decoder's interface.

    Raises:
        CheckpointError: its architecture cannot be run this way.
    """
    name = type(whole).__name__
    try:
        with torch.no_grad():
            decoder, difference = _compared(whole.eval())
    except Exception as error:  # a model's own code raises whatever it likes
        raise CheckpointError(
            f"{name} cannot be run", reason=str(error), fix="take a model of another architecture"
        ) from error
    if not difference < (1e-3 if whole.dtype == torch.float32 else 0.1):
        raise CheckpointError(
            f"{name} cannot be run",
            reason=f"its logits differ from transformers' own by {difference:.1%} of the largest",
            fix="take a model of another architecture",
        )
    return decoder


def _compared(whole: PreTrainedModel, length: int = 7) -> tuple[AutoDecoder, float]:
    """The decoder, and by how much its logits differ from `transformers`' own, relative to the largest."""
    from transformers import AttentionInterface

    vocabulary = int(cast(Any, whole.config.get_text_config()).vocab_size)
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(vocabulary, (2, length), generator=generator).to(whole.device)
    theirs: Tensor = whole(input_ids=tokens_BT, use_cache=False).logits
    AttentionInterface.register(NAME, _attention)
    whole.set_attn_implementation(NAME)
    layers: dict[int, _Layer] = {}
    looking = _LAYERS.set(layers)
    try:
        whole(input_ids=tokens_BT[:1], use_cache=False)
    finally:
        _LAYERS.reset(looking)
    decoder = AutoDecoder(whole, _config(whole, layers))
    ours = decoder.logits(decoder.hidden(tokens_BT))
    return decoder, float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6))


def _config(whole: PreTrainedModel, layers: dict[int, _Layer]) -> DecoderConfig:
    """The shape of the model, from its configuration and from how its layers were seen to attend."""
    hf: Any = whole.config.get_text_config()
    kinds = set(getattr(hf, "layer_types", None) or ["full_attention"])
    if sorted(layers) != list(range(hf.num_hidden_layers)) or kinds - {"full_attention", "sliding_attention"}:
        raise NotImplementedError("not all of its layers are plain attention")
    shapes = {(layer.heads, layer.kv_heads, layer.width, layer.value_width) for layer in layers.values()}
    heads, kv_heads, width, value_width = shapes.pop()
    if shapes or width != value_width:
        raise NotImplementedError("its layers, or its keys and values, differ in shape")
    windows = tuple(layers[index].window for index in sorted(layers))
    return DecoderConfig(
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=getattr(hf, "intermediate_size", None) or 4 * hf.hidden_size,
        layers=len(layers),
        heads=heads,
        kv_heads=kv_heads,
        head_width=width,
        max_positions=_positions(hf),
        tied=bool(getattr(hf, "tie_word_embeddings", False)),
        windows=windows if any(windows) else (),
        family=whole.config.model_type,
        hf=whole.config.to_dict(),
    )


def _positions(hf: Any) -> int:
    """The longest sequence whose rotary frequencies do not depend on how long it is."""
    rope: dict[str, Any] = getattr(hf, "rope_parameters", None) or {}
    longest = int(getattr(hf, "max_position_embeddings", None) or 2048)
    if rope.get("rope_type") not in GROWING_ROPE:
        return longest
    return min(longest, int(rope.get("original_max_position_embeddings") or longest))
