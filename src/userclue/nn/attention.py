"""Multi-head attention within the sequences of a packed batch (paper eq. 1 and 2), by PyTorch on a padded grid."""

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from userclue.nn.dropout import dropout
from userclue.nn.flash import attend_fused
from userclue.nn.layout import Layout


def attend(qkv: Tensor, heads: int, layout: Layout, p: float, generator: torch.Generator | None, causal: bool = False) -> Tensor:
    """Queries, keys and values of all tokens, [N, 3D] → [N, D]; dropout with probability `p` on the attention weights.

    causal: a token mixes only its own value and those before it. On a GPU PyTorch's fused kernels do it.
    """
    if qkv.device.type == "cuda":
        return attend_fused(qkv, heads, layout, p, generator, causal)
    q, k, v = layout.pad(qkv).chunk(3, dim=-1)
    return layout.unpad(_padded(q, k, v, heads, layout.causal_bias if causal else layout.bias, p, generator))


def attend_last(q: Tensor, kv: Tensor, heads: int, layout: Layout, p: float, generator: torch.Generator | None) -> Tensor:
    """One query a sequence, [B, D], keys and values of all tokens, [N, 2D] → [B, D]."""
    k, v = layout.pad(kv).chunk(2, dim=-1)
    return _padded(q.unsqueeze(1), k, v, heads, layout.bias, p, generator).squeeze(1)


def _padded(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None, p: float, generator: torch.Generator | None) -> Tensor:
    """[B, L', D], [B, L, D] twice → [B, L', D]."""
    q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    if generator is None or p == 0.0:
        # A bias of another type is read as if it were of q's: wrong numbers, no error.
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    else:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if bias is not None:
            scores = scores + bias
        mixed = dropout(scores.softmax(dim=-1), p, generator) @ v
    return mixed.transpose(1, 2).flatten(2)
