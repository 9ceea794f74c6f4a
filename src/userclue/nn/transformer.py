"""Self-attention blocks on packed batches (paper IV-A-1b, eq. 1–3), bidirectional, pre- or post-norm."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention

from userclue.nn.dropout import dropout
from userclue.nn.layout import Layout


class Block(nn.Module):
    """Multi-head attention, then a two-layer ReLU network of width D, each with dropout and a residual (as SASRec's block)."""

    def __init__(self, dim: int, heads: int, p: float, norm: Literal["pre", "post"]) -> None:
        super().__init__()
        self.heads, self.p, self.norm_first = heads, p, norm == "pre"
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.ff1 = nn.Linear(dim, dim)
        self.ff2 = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None, last_only: bool) -> Tensor:
        """[N, D] → [N, D], or [B, D] for the UR tokens alone: only their queries are ever formed then."""
        h = self.norm1(x) if self.norm_first else x
        residual = x.index_select(0, layout.last) if last_only else x
        x = residual + dropout(self._attend(h, layout, generator, last_only), self.p, generator)
        if not self.norm_first:
            x = self.norm1(x)
        h = self.norm2(x) if self.norm_first else x
        h = self.ff2(dropout(relu(self.ff1(h)), self.p, generator))
        x = x + dropout(h, self.p, generator)
        out: Tensor = x if self.norm_first else self.norm2(x)
        return out

    def _attend(self, h: Tensor, layout: Layout, generator: torch.Generator | None, last_only: bool) -> Tensor:
        dim = h.shape[-1]
        if last_only:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = torch.nn.functional.linear(h.index_select(0, layout.last), weight[:dim], bias[:dim]).view(layout.size, 1, dim)
            k, v = layout.pad(torch.nn.functional.linear(h, weight[dim:], bias[dim:])).chunk(2, dim=-1)
        else:
            q, k, v = layout.pad(self.qkv(h)).chunk(3, dim=-1)
        q, k, v = (self._split_heads(part) for part in (q, k, v))
        if generator is None or self.p == 0.0:
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=layout.bias)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            if layout.bias is not None:
                scores = scores + layout.bias
            mixed = dropout(scores.softmax(dim=-1), self.p, generator) @ v
        joined = mixed.transpose(1, 2).flatten(2)
        mixed = joined.squeeze(1) if last_only else layout.unpad(joined)
        out: Tensor = self.out(mixed)
        return out

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Transformer(nn.Module):
    """A stack of blocks; pre-norm stacks end in a LayerNorm of their own."""

    def __init__(self, dim: int, blocks: int, heads: int, dropout: float, norm: Literal["pre", "post"]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, norm) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim) if norm == "pre" else nn.Identity()

    def reset(self, generator: torch.Generator) -> None:
        """Xavier-uniform matrices drawn from `generator`, zero biases, unit norms."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """[N, D] → states at the UR tokens, [B, D]; dropout acts only when a generator is given."""
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            x = block(x, layout, generator, last_only=i == last)
        out: Tensor = self.norm(x)
        return out

    def states(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """[N, D] → states of all tokens, [N, D]."""
        for block in self.blocks:
            x = block(x, layout, generator, last_only=False)
        out: Tensor = self.norm(x)
        return out
