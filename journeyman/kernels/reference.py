"""The same loops in torch: for other devices, for machines without a compiler, and for tests to compare with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from journeyman.kernels.loops import BLOCK, Loops


class TorchLoops(Loops):
    """Every loop as a few torch operations."""

    def norm(
        self, x: Tensor, delta: Tensor | None, weight: Tensor, sum: Tensor, out: Tensor, rstd: Tensor | None, eps: float
    ) -> None:
        total = x if delta is None else x + delta
        scale = (total.square().mean(-1, keepdim=True) + eps).rsqrt()
        out.copy_(total * scale * weight)
        sum.copy_(total)
        if rstd is not None:
            rstd.copy_(scale.squeeze(-1))

    def norm_backward(
        self, sum: Tensor, rstd: Tensor, weight: Tensor, grad_sum: Tensor | None, grad_out: Tensor, delta: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        scale, grad = rstd[:, None], grad_out.float()
        weighted = grad * weight
        grad_x = weighted * scale - sum * (weighted * sum).mean(-1, keepdim=True) * scale**3
        if grad_sum is not None:
            grad_x = grad_x + grad_sum
        return grad_x, grad_x.to(grad_out.dtype) if delta else None, (grad * sum * scale).sum(0)

    def swiglu(self, x: Tensor, out: Tensor) -> None:
        gate, up = x.float().chunk(2, -1)
        out.copy_(F.silu(gate) * up)

    def swiglu_backward(self, x: Tensor, grad: Tensor, out: Tensor) -> None:
        gate, up = x.float().chunk(2, -1)
        share, grad = gate.sigmoid(), grad.float()
        out.copy_(torch.cat([grad * up * share * (1 + gate * (1 - share)), grad * gate * share], -1))

    def rotate(
        self, x: Tensor, out: Tensor, cos: Tensor, sin: Tensor, position: Tensor, turned: int, sign: float
    ) -> None:
        cos, sin = cos[position].unsqueeze(1), sin[position].unsqueeze(1) * sign
        left, right = x[:, :turned].float().chunk(2, -1)
        rotated = torch.cat([left * cos - right * sin, right * cos + left * sin], -1)
        if out.data_ptr() != x.data_ptr():
            out[:, turned:] = x[:, turned:]
        out[:, :turned] = rotated

    def store(self, qkv: Tensor, keys: Tensor, values: Tensor, table: Tensor, row: Tensor, position: Tensor) -> None:
        kv_heads = keys.shape[1]
        block, at = table[row, position // BLOCK].long(), position % BLOCK
        keys[block, :, :, at] = qkv[:, -2 * kv_heads : -kv_heads]
        values[block, :, at] = qkv[:, -kv_heads:]

    def attend(
        self,
        qkv: Tensor,
        out: Tensor,
        keys: Tensor,
        values: Tensor,
        table: Tensor,
        row: Tensor,
        position: Tensor,
        window: int | None,
    ) -> None:
        kv_heads, width = keys.shape[1], keys.shape[2]
        count, heads = out.shape[:2]
        blocks = table[row, : int(position.max()) // BLOCK + 1].long()
        seen = torch.arange(blocks.shape[1] * BLOCK, device=qkv.device)[None] <= position[:, None]
        if window is not None:
            seen &= torch.arange(blocks.shape[1] * BLOCK, device=qkv.device)[None] > position[:, None] - window
        key, value = keys[blocks].permute(0, 2, 1, 4, 3), values[blocks].permute(0, 2, 1, 3, 4)
        # what was never written may be anything
        key, value = (
            x.reshape(count, kv_heads, -1, width).masked_fill(~seen[:, None, :, None], 0.0) for x in (key, value)
        )
        query = qkv[:, :heads].unflatten(1, (kv_heads, heads // kv_heads))
        mask = seen[:, None, None, :]
        out.copy_(F.scaled_dot_product_attention(query, key, value, attn_mask=mask).reshape(out.shape))

    def gather(self, x: Tensor, out: Tensor, index: Tensor) -> None:
        found = x[index.clamp_min(0)].masked_fill((index < 0)[..., None, None], 0.0)
        out.copy_(found.transpose(1, 2))

    def ungather(self, x: Tensor, out: Tensor, index: Tensor) -> None:
        real = index >= 0
        out[index[real]] = x.transpose(1, 2)[real]

    def scatter_add(self, x: Tensor, out: Tensor, index: Tensor) -> None:
        real = index >= 0
        out.index_add_(0, index[real], x.transpose(1, 2)[real].float())

    def softmax(self, scores: Tensor, before: Tensor, span: int, start: int, scale: float, window: int | None) -> None:
        batch, rows, columns = scores.shape
        query = torch.arange(rows, device=scores.device) % span + start
        last = before.repeat_interleave(batch // len(before))[:, None] + query
        column = torch.arange(columns, device=scores.device)
        hidden = column > last[..., None]
        if window is not None:
            hidden |= column <= last[..., None] - window
        scores.copy_((scores.float() * scale).masked_fill(hidden, float("-inf")).softmax(-1))

    def softmax_backward(self, probs: Tensor, grad: Tensor, scale: float) -> None:
        p, g = probs.float(), grad.float()
        grad.copy_(p * (g - (p * g).sum(-1, keepdim=True)) * scale)

    def transposed(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.t().to(dtype).contiguous()

    def log_probability(self, logits: Tensor, token: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scaled = logits.float() / temperature[:, None]
        lse = scaled.logsumexp(-1)
        distribution = scaled - lse[:, None]
        entropy = -(distribution.exp() * distribution).sum(-1)
        return distribution.gather(-1, token[:, None]).squeeze(-1), entropy, lse

    def log_probability_backward(
        self,
        logits: Tensor,
        token: Tensor,
        temperature: Tensor,
        entropy: Tensor,
        lse: Tensor,
        grad: Tensor,
        grad_entropy: Tensor | None,
    ) -> None:
        distribution = logits.float() / temperature[:, None] - lse[:, None]
        probs = distribution.exp()
        out = -grad[:, None] * probs
        out.scatter_add_(-1, token[:, None], grad[:, None])
        if grad_entropy is not None:
            out -= grad_entropy[:, None] * probs * (distribution + entropy[:, None])
        logits.copy_(out / temperature[:, None])

    def sample(self, logits: Tensor, temperature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        greedy = temperature == 0
        logprobs = (logits.float() / torch.where(greedy, 1.0, temperature)[:, None]).log_softmax(-1)
        mass = logprobs.exp().cumsum(-1, dtype=torch.float64)
        token = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True).squeeze(-1)
        token = torch.where(greedy, logits.argmax(-1), token.clamp_(max=logits.shape[-1] - 1))
        return token, logprobs.gather(-1, token[:, None]).squeeze(-1)
