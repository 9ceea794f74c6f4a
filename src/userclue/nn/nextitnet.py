"""Dilated convolutions on packed batches (NextItNet, Yuan et al. 2019; the backbone of PeterRec, Yuan et al. 2020)."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from userclue.config import EncoderConfig
from userclue.nn.adapters import close_patches, patches
from userclue.nn.dropout import dropout
from userclue.nn.heads import reset_blocks
from userclue.nn.layout import Layout


class Convolution(nn.Module):
    """A convolution of kernel 3 over the tokens of each history, which sees zeros beyond its ends.

    Causal it reads tokens t − 2d, t − d, t; otherwise t − d, t, t + d. `taps.weight` [C, 3C]: the three matrices side by side.
    """

    def __init__(self, dim: int, dilation: int, causal: bool) -> None:
        super().__init__()
        self.taps = nn.Linear(3 * dim, dim)
        self.back = (2 * dilation, dilation, 0) if causal else (dilation, 0, -dilation)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """[N, C] → [N, C]."""
        out: Tensor = self.taps(torch.cat([earlier(x, by, layout) for by in self.back], dim=1))
        return out


def earlier(x: Tensor, by: int, layout: Layout) -> Tensor:
    """[N, C]: to each token the row that stands `by` tokens before it in its history (after it for `by` < 0), zeros where there is none."""
    if by == 0:
        return x
    inside = (layout.from_start if by > 0 else layout.from_end) >= abs(by)
    return x.roll(by, 0) * inside.to(x.dtype).unsqueeze(1)


class Block(nn.Module):
    """Two convolutions of dilations d and 2d, LayerNorm and ReLU after each, and a skip around both.

    Dropout, which the original has not, follows each ReLU: it is what makes the views of CLUE differ.
    """

    def __init__(self, config: EncoderConfig, dilation: int) -> None:
        super().__init__()
        causal = config.causal is not False
        self.p = config.dropout
        self.conv1 = Convolution(config.dim, dilation, causal)
        self.conv2 = Convolution(config.dim, 2 * dilation, causal)
        self.norm1 = nn.LayerNorm(config.dim)
        self.norm2 = nn.LayerNorm(config.dim)
        self.adapter = patches(config, "conv1", "conv2")

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        """[N, D] → [N, D]."""
        h = self.conv1(x, layout)
        if self.adapter is not None:
            h = self.adapter["conv1"](h)
        h = self.conv2(dropout(relu(self.norm1(h)), self.p, generator), layout)
        if self.adapter is not None:
            h = self.adapter["conv2"](h)
        return x + dropout(relu(self.norm2(h)), self.p, generator)


class NextItNet(nn.Module):
    """A stack of residual blocks, causal unless said otherwise (PeterRec trains both: causal for the next item, not for its cloze)."""

    causal: ClassVar[bool | None] = None
    causal_by_default: ClassVar[bool] = True
    adaptable: ClassVar[bool] = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, dilation) for dilation in dilations(config))

    def reset(self, generator: torch.Generator) -> None:
        """Xavier-uniform matrices drawn from `generator`, zero biases, unit norms."""
        reset_blocks(self, generator)
        close_patches(self)

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """[N, D] → states at the UR tokens, [B, D]; dropout acts only when a generator is given."""
        return self.states(x, layout, generator).index_select(0, layout.last)

    def states(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """[N, D] → states of all tokens, [N, D]."""
        for block in self.blocks:
            x = block(x, layout, generator)
        return x


def dilations(config: EncoderConfig) -> list[int]:
    """The first dilation of each block: 1, 4, 16 … (`growing`, begun again before it passes max_len), or 1, 4 in turn (`repeated`)."""
    cycle = [1, 4]
    if config.dilation == "growing":
        cycle = [1]
        while 4 * cycle[-1] <= config.max_len:
            cycle.append(4 * cycle[-1])
    return [cycle[number % len(cycle)] for number in range(config.blocks)]
