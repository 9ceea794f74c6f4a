"""Multi-head attention within the sequences of a packed batch (paper eq. 1 and 2), bidirectional.

Two forms of one function: compiled kernels on the packed rows as they lie (CPU, float32), and PyTorch on a padded grid.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from userclue.nn.dropout import draw, dropout, fits
from userclue.nn.layout import Layout
from userclue.nn.native import kernels

NO_MASK = (0, 1.0, 0)


def attend(qkv: Tensor, heads: int, layout: Layout, p: float, generator: torch.Generator | None, causal: bool = False) -> Tensor:
    """Queries, keys and values of all tokens, [N, 3D] → [N, D]; dropout with probability `p` on the attention weights.

    causal: a token mixes only its own value and those before it.
    """
    if fits(qkv) and not causal:
        drawn = draw(p, generator) if generator is not None and p > 0.0 else NO_MASK
        out: Tensor = _Attention.apply(qkv.contiguous(), None, layout.offsets, layout.offsets, heads, drawn)  # type: ignore[no-untyped-call]
        return out
    q, k, v = layout.pad(qkv).chunk(3, dim=-1)
    return layout.unpad(_padded(q, k, v, heads, layout.causal_bias if causal else layout.bias, p, generator))


def attend_last(q: Tensor, kv: Tensor, heads: int, layout: Layout, p: float, generator: torch.Generator | None) -> Tensor:
    """One query a sequence, [B, D], keys and values of all tokens, [N, 2D] → [B, D]."""
    if fits(q) and fits(kv):
        drawn = draw(p, generator) if generator is not None and p > 0.0 else NO_MASK
        out: Tensor = _Attention.apply(kv.contiguous(), q.contiguous(), layout.rows, layout.offsets, heads, drawn)  # type: ignore[no-untyped-call]
        return out
    k, v = layout.pad(kv).chunk(2, dim=-1)
    return _padded(q.unsqueeze(1), k, v, heads, layout.bias, p, generator).squeeze(1)


def _padded(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None, p: float, generator: torch.Generator | None) -> Tensor:
    """[B, L', D], [B, L, D] twice → [B, L', D]."""
    q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    if generator is None or p == 0.0:
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=bias)
    else:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if bias is not None:
            scores = scores + bias
        mixed = dropout(scores.softmax(dim=-1), p, generator) @ v
    return mixed.transpose(1, 2).flatten(2)


class _Attention(torch.autograd.Function):
    """The compiled form. `packed` is [N, 3D] (q, k, v) when `q` is None, else [N, 2D] (k, v) beside q [Q, D].

    Kept for the backward pass: the inputs, and two numbers a query and head (the largest score, one over the sum), from which the
    weights are formed again; the mask is drawn again from its seed.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, q: Tensor | None, q_offsets: Tensor, offsets: Tensor, heads: int, drawn: Any) -> Tensor:
        queries, keys, dim = _views(packed, q)
        out = packed.new_empty(queries.shape[0], dim)
        stats = packed.new_empty(queries.shape[0], heads, 2)
        library = kernels()
        assert library is not None
        library.userclue_attention_forward(
            *_shape(queries, keys, dim, q_offsets, offsets, heads), *drawn, out.data_ptr(), dim, stats.data_ptr(), torch.get_num_threads()
        )
        ctx.save_for_backward(packed, q, q_offsets, offsets, stats)
        ctx.heads, ctx.drawn = heads, drawn
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        packed, q, q_offsets, offsets, stats = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        queries, keys, dim = _views(packed, q)
        d_packed = torch.empty_like(packed)
        d_q = None if q is None else torch.empty_like(q)
        d_queries, d_keys, _ = _views(d_packed, d_q)
        library = kernels()
        assert library is not None
        library.userclue_attention_backward(
            *_shape(queries, keys, dim, q_offsets, offsets, ctx.heads),
            *ctx.drawn,
            gradient.data_ptr(),
            dim,
            stats.data_ptr(),
            d_queries.data_ptr(),
            d_queries.stride(0),
            d_keys.data_ptr(),
            d_keys[:, dim:].data_ptr(),
            d_keys.stride(0),
            torch.get_num_threads(),
        )
        return d_packed, d_q, None, None, None, None


def _views(packed: Tensor, q: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Queries [Q, D], keys and values [N, 2D], and D."""
    if q is not None:
        return q, packed, q.shape[1]
    dim = packed.shape[1] // 3
    return packed[:, :dim], packed[:, dim:], dim


def _shape(queries: Tensor, keys: Tensor, dim: int, q_offsets: Tensor, offsets: Tensor, heads: int) -> tuple[Any, ...]:
    width = dim // heads
    return (
        *(queries.data_ptr(), queries.stride(0)),
        *(keys.data_ptr(), keys[:, dim:].data_ptr(), keys.stride(0)),
        *(q_offsets.data_ptr(), offsets.data_ptr(), offsets.shape[0] - 1, heads, width, 1 / math.sqrt(width)),
    )
