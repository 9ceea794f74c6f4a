"""Self-attention blocks on packed batches (paper IV-A-1b, eq. 1–3), bidirectional or causal, pre- or post-norm."""

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from userclue.config import EncoderConfig
from userclue.nn.adapters import close_patches, patches
from userclue.nn.attention import attend, attend_last
from userclue.nn.dropout import dropout
from userclue.nn.fused import ORDER, FirstProducts, Shape, first_products, fits_whole, fused_blocks
from userclue.nn.heads import reset_blocks
from userclue.nn.layout import Layout


class Block(nn.Module):
    """Multi-head attention, then a two-layer ReLU network of width D, each with dropout and a residual (as SASRec's block)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.p, self.norm_first, self.causal = config.heads, config.dropout, config.norm == "pre", bool(config.causal)
        self.shape = Shape(config.heads, config.dropout, config.norm == "post", self.causal)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.ff1 = nn.Linear(dim, dim)
        self.ff2 = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.adapter = patches(config, "attention", "feed_forward")

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None, last_only: bool) -> Tensor:
        """[N, D] → [N, D], or [B, D] for the UR tokens alone: only their queries are ever formed then."""
        if self.adapter is None and fits_whole(x):
            return fused_blocks(x, layout, self.weights(), self.shape, generator, last_only)
        h = self.norm1(x) if self.norm_first else x
        residual = x.index_select(0, layout.last) if last_only else x
        h = self.out(self._attend(h, layout, generator, last_only))
        if self.adapter is not None:
            h = self.adapter["attention"](h)
        x = residual + dropout(h, self.p, generator)
        if not self.norm_first:
            x = self.norm1(x)
        h = self.norm2(x) if self.norm_first else x
        h = self.ff2(dropout(relu(self.ff1(h)), self.p, generator))
        if self.adapter is not None:
            h = self.adapter["feed_forward"](h)
        x = x + dropout(h, self.p, generator)
        out: Tensor = x if self.norm_first else self.norm2(x)
        return out

    def weights(self) -> list[Tensor]:
        """As the compiled kernel takes them."""
        layers = [getattr(self, name) for name in ORDER]
        return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]

    def _attend(self, h: Tensor, layout: Layout, generator: torch.Generator | None, last_only: bool) -> Tensor:
        if not last_only:
            return attend(self.qkv(h), self.heads, layout, self.p, generator, self.causal)
        dim, weight, bias = h.shape[-1], self.qkv.weight, self.qkv.bias
        q = linear(h.index_select(0, layout.last), weight[:dim], bias[:dim])
        return attend_last(q, linear(h, weight[dim:], bias[dim:]), self.heads, layout, self.p, generator)


class Transformer(nn.Module):
    """A stack of blocks; pre-norm stacks end in a LayerNorm of their own."""

    causal: ClassVar[bool | None] = None
    causal_by_default: ClassVar[bool] = False
    adaptable: ClassVar[bool] = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.dim) if config.norm == "pre" else nn.Identity()

    def reset(self, generator: torch.Generator) -> None:
        """Xavier-uniform matrices drawn from `generator`, zero biases, unit norms."""
        reset_blocks(self, generator)
        close_patches(self)

    def forward(
        self, x: Tensor, layout: Layout, generator: torch.Generator | None = None, first: tuple[FirstProducts, Tensor] | None = None
    ) -> Tensor:
        """[N, D] → states at the UR tokens, [B, D]; dropout acts only when a generator is given. first: see `fused_blocks`."""
        return self._run(x, layout, generator, last_only=True, first=first)

    def first_products(self, items: Tensor, places: Tensor) -> FirstProducts | None:
        """For `forward` without gradients; None where a block does not run as the compiled kernel, or the first is the last."""
        blocks = self._blocks()
        if len(blocks) < 2 or not self._fits(items):
            return None
        return first_products(items, places, blocks[0].weights(), blocks[0].shape)

    def states(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """[N, D] → states of all tokens, [N, D]."""
        return self._run(x, layout, generator, last_only=False)

    def _blocks(self) -> Sequence[Block]:
        return cast("Sequence[Block]", self.blocks)

    def _fits(self, x: Tensor) -> bool:
        return fits_whole(x) and all(block.adapter is None for block in self._blocks())

    def _run(
        self,
        x: Tensor,
        layout: Layout,
        generator: torch.Generator | None,
        last_only: bool,
        first: tuple[FirstProducts, Tensor] | None = None,
    ) -> Tensor:
        blocks = self._blocks()
        if self._fits(x):
            weights = [*(weight for block in blocks for weight in block.weights()), *self.norm.parameters()]
            return fused_blocks(x, layout, weights, blocks[0].shape, generator, last_only, first)
        last = len(blocks) - 1
        for i, block in enumerate(blocks):
            x = block(x, layout, generator, last_only=last_only and i == last)
        out: Tensor = self.norm(x)
        return out
