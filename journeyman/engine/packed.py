"""A decoder's weights laid out for sampling, and its forward pass over flat tokens.

Products that read the same input are one product, and weights lie as the processor reads them fastest, which halves
the time of small batches. The learner's own weights stay as they are: `load` copies from them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from journeyman.kernels.functions import joined
from journeyman.kernels.loops import loops
from journeyman.kernels.whole import MOST_APART, WholeStep, panels, tiled_product
from journeyman.model.decoder import Attend, Decoder, Layer, Norm, norm_heads


@dataclass(frozen=True)
class Product:
    """From [N, inputs] to [N, outputs]. `panels` where whole steps can use them."""

    call: Callable[[Tensor], Tensor]
    panels: Tensor | None = None
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.call(x)


@dataclass(frozen=True)
class _Layer:
    head_norms: tuple[Tensor, Tensor] | None
    before_attention: Tensor
    before_mlp: Tensor
    qkv: Product
    output: Product
    gate_up: Product
    down: Product


class PackedDecoder:
    """What samples: a copy of a :class:`Decoder`'s weights in one precision."""

    def __init__(self, model: Decoder, dtype: torch.dtype) -> None:
        self.config, self.dtype, self.device = model.config, dtype, model.head.device
        self.run = loops(self.device.type, dtype)
        self.slab = _Slab(dtype, sum(p.numel() for p in model.parameters()))
        self.load(model)

    @torch.no_grad()
    def load(self, model: Decoder) -> None:
        """Take the present weights of the model."""
        trunk = model.model
        self.slab.clear()
        self.embedding = trunk.embed_tokens.weight.detach().to(self.dtype, copy=True)
        self.cos, self.sin = trunk.rotary.cos, trunk.rotary.sin
        self.layers = [self._layer(layer) for layer in trunk.layers]  # type: ignore[arg-type]
        self.final = _own(trunk.norm)
        self.head = _product([model.head], [None], self.slab)
        self.whole = self._whole()

    def _whole(self) -> WholeStep | None:
        """The same as one call for each step, where weights lie in panels and are large, or small, enough."""
        c = self.config
        layers: list[tuple[dict[str, Tensor], int | None]] = []
        size = 0
        for index, layer in enumerate(self.layers):
            products = {"qkv": layer.qkv, "output": layer.output, "gate_up": layer.gate_up, "down": layer.down}
            if layer.head_norms is not None or any(p.panels is None or p.bias is not None for p in products.values()):
                return None
            weights = {name: product.panels for name, product in products.items() if product.panels is not None}
            size += sum(t.numel() * t.element_size() for t in weights.values())
            norms = {"before_attention": layer.before_attention, "before_mlp": layer.before_mlp}
            layers.append(({**norms, **weights}, c.window(index)))
        apart = size <= MOST_APART
        if self.head.panels is None or (self.dtype is torch.float32 and not apart):
            return None
        ends = {"embedding": self.embedding, "cos": self.cos, "sin": self.sin, "final": self.final}
        widths = {"D": c.hidden_size, "I": c.intermediate_size, "E": c.head_width, "V": c.vocab_size}
        heads = {"H": c.heads, "K": c.kv_heads}
        return WholeStep({**ends, "head": self.head.panels}, layers, {**widths, **heads}, c.norm_eps, apart)

    def _layer(self, layer: Layer) -> _Layer:
        a, m = layer.self_attn, layer.mlp
        return _Layer(
            head_norms=None if a.q_norm is None or a.k_norm is None else (_own(a.q_norm), _own(a.k_norm)),
            before_attention=_own(layer.input_layernorm),
            before_mlp=_own(layer.post_attention_layernorm),
            qkv=self._joint(a.q_proj, a.k_proj, a.v_proj),
            output=self._joint(a.o_proj),
            gate_up=self._joint(m.gate_proj, m.up_proj),
            down=self._joint(m.down_proj),
        )

    def _joint(self, *parts: Any) -> Product:
        return _product([part.weight for part in parts], [part.bias for part in parts], self.slab)

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [N, D] of flat tokens [N] at their positions [N], as `Trunk.forward` computes them."""
        c, run = self.config, self.run
        count, turned = len(tokens), c.heads + c.kv_heads
        x = self.embedding[tokens].float()
        normed = x.new_empty(x.shape, dtype=self.dtype)
        active = x.new_empty(count, c.intermediate_size, dtype=self.dtype)
        run.norm(x, None, self.layers[0].before_attention, x, normed, None, c.norm_eps)
        for index, layer in enumerate(self.layers):
            qkv = layer.qkv(normed).view(count, turned + c.kv_heads, c.head_width)
            if layer.head_norms is not None:
                qkv = norm_heads(qkv, c.heads, *layer.head_norms, c.norm_eps)
            run.rotate(qkv, qkv, self.cos, self.sin, positions, turned, 1.0)
            delta = layer.output(attend(index, qkv).flatten(1))
            run.norm(x, delta, layer.before_mlp, x, normed, None, c.norm_eps)
            run.swiglu(layer.gate_up(normed), active)
            last = index + 1 == len(self.layers)
            following = self.final if last else self.layers[index + 1].before_attention
            run.norm(x, layer.down(active), following, x, normed, None, c.norm_eps)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [N, V] of hidden states [N, D]."""
        return self.head(hidden)


class PlainDecoder:
    """The same face on an architecture that only `transformers` computes (`AutoDecoder`)."""

    def __init__(self, model: Decoder, dtype: torch.dtype) -> None:
        self.dtype, self.device = dtype, model.head.device
        self.whole = None
        self.model = copy.deepcopy(model).requires_grad_(False).to(dtype)

    def load(self, model: Decoder) -> None:
        """Take the present weights of the model."""
        self.model.load_state_dict(model.state_dict())

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [N, D] of flat tokens [N] at their positions [N]."""
        return self.model.model(tokens, positions, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [N, V] of hidden states [N, D]."""
        return self.model.logits(hidden)


def packed(model: Decoder, dtype: torch.dtype) -> PackedDecoder | PlainDecoder:
    """The model as an engine runs it."""
    return PackedDecoder(model, dtype) if type(model) is Decoder else PlainDecoder(model, dtype)


def _own(norm: Norm) -> Tensor:
    return norm.weight.detach().float().clone()


class _Slab:
    """One piece of memory for all weights, so that it comes in large pages, which are read a tenth faster."""

    def __init__(self, dtype: torch.dtype, size: int) -> None:
        self.dtype, self.whole = dtype, torch.empty(size, dtype=dtype)
        self.free = self.whole

    def clear(self) -> None:
        """Begin again."""
        self.free = self.whole

    def panels(self, weight: Tensor) -> Tensor | None:
        """A weight in panels, here or, where there is no room left, elsewhere; None where they cannot be used."""
        found = panels(weight, self.dtype, self.free)
        if found is not None and found.data_ptr() == self.free.data_ptr():
            self.free = self.free[len(found) :]
        return found


def _product(weights: Sequence[Tensor], biases: Sequence[Tensor | None], slab: _Slab) -> Product:
    dtype = slab.dtype
    weight = joined([w.detach() for w in weights], weights[0].dtype)
    given = [b.detach() for b in biases if b is not None]
    bias = joined(given, dtype).clone() if given else None
    laid_out = slab.panels(weight)
    if dtype is torch.bfloat16 and laid_out is not None:
        return Product(tiled_product(laid_out, len(weight), bias), laid_out, bias)
    if dtype is torch.bfloat16 and weight.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        opaque = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), 64)
        run = torch.ops.mkldnn._linear_pointwise.default
        return Product(lambda x: run(x, opaque, bias, "none", [], ""))
    own = weight.to(dtype, copy=True)
    return Product(lambda x: F.linear(x, own, bias), laid_out, bias)
