"""One dense decoder for the engine that samples and the trainer that learns.

Covers the Llama, SmolLM2, Qwen2/2.5, Qwen3 and Mistral families: grouped-query attention, rotary positions,
optional biases and q/k norms, tied embeddings. Parameter names are Hugging Face's, so a checkpoint needs no
conversion. The body is written once over flat tokens; how a token attends to the past is the caller's
(`Attend`): packed sequences when learning, a cache when sampling.

Shapes: B sequences, T tokens each, N flat tokens in all, D hidden, H query heads, K key/value heads, E head width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from journeyman.errors import CheckpointError
from journeyman.kernels.attention import Layout, attention
from journeyman.kernels.functions import add_norm, linear, log_probability, rotate, swiglu
from journeyman.kernels.passes import Shape, fits, layers

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary variants whose frequencies do not change with the length read so far."""

Attend = Callable[[int, Tensor], Tensor]
"""(layer, queries, keys and values [N, H + 2K, E], positions applied) -> attended values [N, H, E]."""


@dataclass(frozen=True)
class Packed:
    """Flat tokens [N] of several sequences, their positions [N], and who attends to whom."""

    tokens: Tensor
    positions: Tensor
    layout: Layout

    @staticmethod
    def rows(tokens_BT: Tensor) -> Packed:
        """Whole sequences of one length. Padding on the right is never seen by what is left of it."""
        count, length = tokens_BT.shape
        positions = torch.arange(length, device=tokens_BT.device).repeat(count)
        return Packed(tokens_BT.flatten(), positions, Layout.rows(count, length, tokens_BT.device))


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder; `hf` keeps the configuration it came from, so that saving loses nothing.

    Attributes:
        window: tokens a query sees back, itself included; None for all. `window_from` is the first layer
            that has it (Qwen2's max_window_layers).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    max_positions: int
    rope: Mapping[str, Any] = field(default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0})
    norm_eps: float = 1e-5
    tied: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int | None, ...] = ()
    family: str = "llama"
    hf: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def window(self, layer: int) -> int | None:
        """Tokens a query of this layer sees back."""
        return self.windows[layer] if self.windows else None

    @property
    def shape(self) -> Shape | None:
        """What the passes over all layers at once need to know; None where layers have more than they compute."""
        if self.qkv_bias or self.output_bias or self.mlp_bias or self.qk_norm:
            return None
        windows = tuple(self.window(layer) or 0 for layer in range(self.layers))
        widths = (self.hidden_size, self.intermediate_size, self.heads, self.kv_heads, self.head_width)
        return Shape(self.layers, *widths, self.norm_eps, windows)

    def activations(self, size: int) -> int:
        """Bytes that learning keeps for each token, with products of `size` bytes a number."""
        qkv, attended = (self.heads + 2 * self.kv_heads) * self.head_width, self.heads * self.head_width
        layer = size * (2 * self.hidden_size + 3 * qkv + attended + 3 * self.intermediate_size) + 8 * self.hidden_size
        return self.layers * layer + size * self.vocab_size

    @staticmethod
    def tiny(
        vocab_size: int, *, width: int = 128, layers: int = 4, heads: int = 4, positions: int = 1024
    ) -> DecoderConfig:
        """A model small enough to learn from scratch on two cores (0.9M parameters without embeddings)."""
        return DecoderConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=width * 3,
            layers=layers,
            heads=heads,
            kv_heads=heads,
            head_width=width // heads,
            max_positions=positions,
        )

    @staticmethod
    def from_hf(config: PretrainedConfig | Mapping[str, Any]) -> DecoderConfig:
        """Read a Hugging Face configuration.

        Raises:
            CheckpointError: the family or its rotary variant is not one this decoder computes.
        """
        if not isinstance(config, PretrainedConfig):
            config = AutoConfig.for_model(**dict(config))
        c: Any = config
        if c.model_type not in FAMILIES:
            raise CheckpointError(
                f"the decoder does not know the family {c.model_type!r}",
                reason=f"it computes {', '.join(FAMILIES)}",
            )
        rope = dict(c.rope_parameters)
        if rope.get("rope_type", "default") not in STATIC_ROPE:
            raise CheckpointError(f"the decoder does not know the rotary variant {rope['rope_type']!r}")
        if getattr(c, "hidden_act", "silu") != "silu":
            raise CheckpointError(f"the decoder does not know the activation {c.hidden_act!r}")
        qwen2 = c.model_type == "qwen2"
        bias = bool(getattr(c, "attention_bias", False))
        return DecoderConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.hidden_size,
            intermediate_size=c.intermediate_size,
            layers=c.num_hidden_layers,
            heads=c.num_attention_heads,
            kv_heads=c.num_key_value_heads,
            head_width=getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
            max_positions=c.max_position_embeddings,
            rope=rope,
            norm_eps=c.rms_norm_eps,
            tied=bool(c.tie_word_embeddings),
            qkv_bias=bias or qwen2,
            output_bias=bias,
            mlp_bias=bool(getattr(c, "mlp_bias", False)),
            qk_norm=c.model_type == "qwen3",
            windows=_windows(c),
            family=c.model_type,
            hf=c.to_dict(),
        )

    def to_hf(self) -> PretrainedConfig:
        """The Hugging Face configuration: the one it was read from, or a Llama one of the same shape."""
        if self.hf:
            return AutoConfig.for_model(**dict(self.hf))
        return AutoConfig.for_model(
            model_type="llama",
            architectures=["LlamaForCausalLM"],
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_width,
            max_position_embeddings=self.max_positions,
            rms_norm_eps=self.norm_eps,
            rope_parameters=dict(self.rope),
            tie_word_embeddings=self.tied,
        )


def _windows(config: Any) -> tuple[int | None, ...]:
    """The attention window of each layer, as the family's Hugging Face model applies it."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None:
        return ()
    if kinds is None:
        return (window,) * config.num_hidden_layers
    windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return windows if any(windows) else ()


class Rotary(nn.Module):
    """Rotary positions (2104.09864), frequencies by Hugging Face's own initializers: tables [positions, E / 2]."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        kind = config.rope.get("rope_type", "default")
        if kind == "default":
            exponent = torch.arange(0, config.head_width, 2, dtype=torch.int64).float() / config.head_width
            inverse, scale = 1.0 / (config.rope["rope_theta"] ** exponent), 1.0
        else:
            inverse, scale = ROPE_INIT_FUNCTIONS[kind](config.to_hf(), torch.device("cpu"))
        angles = torch.outer(torch.arange(config.max_positions, dtype=torch.float32), inverse)
        self.register_buffer("cos", angles.cos() * scale, persistent=False)
        self.register_buffer("sin", angles.sin() * scale, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        """Moves with the model, and stays float32 when the weights do not."""
        cos, sin = self.cos, self.sin
        super()._apply(fn, recurse)
        self.cos, self.sin = cos.to(self.cos.device), sin.to(self.sin.device)
        return self


class Norm(nn.Module):
    """Root-mean-square norm (1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def add(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """The residual stream x + delta, and its norm."""
        return add_norm(x, delta, self.weight, self.eps)


class Attention(nn.Module):
    """Projections around whatever attention the caller brings."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        c = config
        self.heads, self.kv_heads, self.head_width = c.heads, c.kv_heads, c.head_width
        self.q_proj = nn.Linear(c.hidden_size, c.heads * c.head_width, bias=c.qkv_bias)
        self.k_proj = nn.Linear(c.hidden_size, c.kv_heads * c.head_width, bias=c.qkv_bias)
        self.v_proj = nn.Linear(c.hidden_size, c.kv_heads * c.head_width, bias=c.qkv_bias)
        self.o_proj = nn.Linear(c.heads * c.head_width, c.hidden_size, bias=c.output_bias)
        self.q_norm = Norm(c.head_width, c.norm_eps) if c.qk_norm else None
        self.k_norm = Norm(c.head_width, c.norm_eps) if c.qk_norm else None

    def forward(self, x: Tensor, rotary: Rotary, positions: Tensor, layer: int, attend: Attend) -> Tensor:
        qkv = self.project(x)
        turned = self.heads + self.kv_heads
        return self.output(attend(layer, rotate(qkv, rotary.cos, rotary.sin, positions, turned)))

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values [N, H + 2K, E], as one product."""
        parts = (self.q_proj, self.k_proj, self.v_proj)
        qkv = linear(x, [p.weight for p in parts], [p.bias for p in parts])
        qkv = qkv.unflatten(-1, (self.heads + 2 * self.kv_heads, self.head_width))
        if self.q_norm is None or self.k_norm is None:
            return qkv
        return norm_heads(qkv, self.heads, self.q_norm.weight, self.k_norm.weight, self.q_norm.eps)

    def output(self, attended: Tensor) -> Tensor:
        """[N, D] of attended values [N, H, E]."""
        return linear(attended.flatten(-2), [self.o_proj.weight], [self.o_proj.bias])


def norm_heads(qkv: Tensor, heads: int, q_weight: Tensor, k_weight: Tensor, eps: float) -> Tensor:
    """Queries, keys and values [N, H + 2K, E], each query and key normed on its own (Qwen3)."""
    kv_heads = (qkv.shape[1] - heads) // 2
    q, k, v = qkv.split((heads, kv_heads, kv_heads), 1)
    q, k = (F.rms_norm(x.float(), x.shape[-1:], w.float(), eps) for x, w in ((q, q_weight), (k, k_weight)))
    return torch.cat([q.to(v.dtype), k.to(v.dtype), v], 1)


class MLP(nn.Module):
    """SwiGLU (2002.05202)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        d, i, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(d, i, bias=bias)
        self.up_proj = nn.Linear(d, i, bias=bias)
        self.down_proj = nn.Linear(i, d, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        both = linear(x, [self.gate_proj.weight, self.up_proj.weight], [self.gate_proj.bias, self.up_proj.bias])
        return linear(swiglu(both), [self.down_proj.weight], [self.down_proj.bias])


class Layer(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = Norm(config.hidden_size, config.norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.norm_eps)

    def weights(self) -> list[Tensor]:
        """In the order of :func:`journeyman.kernels.passes.layers`."""
        a, m = self.self_attn, self.mlp
        attention = (self.input_layernorm, a.q_proj, a.k_proj, a.v_proj, a.o_proj)
        mlp = (self.post_attention_layernorm, m.gate_proj, m.up_proj, m.down_proj)
        return [part.weight for part in (*attention, *mlp)]

    def forward(
        self, x: Tensor, delta: Tensor | None, rotary: Rotary, positions: Tensor, layer: int, attend: Attend
    ) -> tuple[Tensor, Tensor]:
        """The residual stream, and what is still to be added to it: each norm adds what the block before it gave."""
        x, normed = self.input_layernorm.add(x, delta)
        delta = self.self_attn(normed, rotary, positions, layer, attend)
        x, normed = self.post_attention_layernorm.add(x, delta)
        return x, self.mlp(normed)


class Trunk(nn.Module):
    """Embedding, layers, final norm: everything but the vocabulary's head. Hugging Face calls it `model`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = Norm(config.hidden_size, config.norm_eps)
        self.rotary = Rotary(config)
        self.keeps: int | None = None

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend, beside: Tensor | None = None) -> Tensor:
        """Final hidden states [N, D] of flat tokens [N] at their positions [N]; `beside` [N, D] is added to what they
        are embedded as.

        More tokens than `keeps` have their layers computed a second time for the gradient, from the layers' inputs
        alone (1604.06174), instead of keeping all that it needs.
        """
        x, delta = self._embedded(tokens, beside), None
        again = torch.is_grad_enabled() and self.keeps is not None and len(tokens) > self.keeps
        for index, layer in enumerate(self.layers):
            inputs = (x, delta, self.rotary, positions, index, attend)
            x, delta = checkpoint(layer, *inputs, use_reentrant=False) if again else layer(*inputs)
        return self.norm.add(x, delta)[1]

    def _embedded(self, tokens: Tensor, beside: Tensor | None) -> Tensor:
        x = self.embed_tokens(tokens).float()
        return x if beside is None else x + beside

    def packed(self, packed: Packed, beside: Tensor | None = None) -> Tensor:
        """Final hidden states [N, D] of packed sequences."""
        found = self._at_once(packed, beside)
        if found is not None:
            return found

        def attend(layer: int, qkv: Tensor) -> Tensor:
            return attention(qkv, self.config.heads, packed.layout, self.config.window(layer))

        return self(packed.tokens, packed.positions, attend, beside)

    def _at_once(self, packed: Packed, beside: Tensor | None) -> Tensor | None:
        """The same in one call for all layers, where the model is small enough for that."""
        shape = self.config.shape
        if shape is None or (self.keeps is not None and len(packed.tokens) > self.keeps):
            return None
        weights = [weight for layer in self.layers for weight in layer.weights()]  # type: ignore[operator]
        weights.append(self.norm.weight)
        if not fits(shape, weights, packed.layout):
            return None
        x = self._embedded(packed.tokens, beside)
        return layers(x, packed.positions, self.rotary.cos, self.rotary.sin, packed.layout, shape, weights)


class Decoder(nn.Module):
    """A causal language model: trunk and vocabulary head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = None if config.tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.reset()

    def reset(self) -> None:
        """Fresh weights: normal(0, 0.02), residual outputs narrower by the depth (GPT-2, section 2.3)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            else:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * self.config.layers) ** 0.5 if residual else 0.02)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """Final hidden states [B, T, D] of right-padded sequences."""
        return self.model.packed(Packed.rows(tokens_BT)).unflatten(0, tokens_BT.shape)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [..., V] of hidden states [..., D]."""
        return F.linear(hidden, self.head)

    @property
    def head(self) -> Tensor:
        """The vocabulary's weights [V, D]."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def log_probability(self, hidden: Tensor, token: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [A], float32, of tokens [A] chosen in hidden states [A, D]."""
        return log_probability(hidden, self.head, token, temperature)
