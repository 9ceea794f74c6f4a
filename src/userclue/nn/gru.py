"""Gated recurrent units on packed batches: the cell and reading order of GRU4Rec (Hidasi et al. 2016)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from userclue.config import EncoderConfig
from userclue.nn.dropout import dropout
from userclue.nn.layout import Layout


class Gru(nn.Module):
    """A stack of GRU layers. Each history starts from a hidden state of zero, whatever stood before it in the batch.

    Dropout acts between layers; the encoder has already dropped parts of the input.
    """

    causal: ClassVar[bool | None] = True
    causal_by_default: ClassVar[bool] = True
    adaptable: ClassVar[bool] = False

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dim, self.p = config.dim, config.dropout
        self.layers = nn.ModuleList(nn.GRU(config.dim, config.dim, batch_first=True) for _ in range(config.blocks))

    def reset(self, generator: torch.Generator) -> None:
        """PyTorch's own default for a GRU, U(±1/√D), drawn from `generator`."""
        bound = self.dim**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """[N, D] → states at the UR tokens, [B, D]; dropout acts only when a generator is given."""
        return self.states(x, layout, generator).index_select(0, layout.last)

    def states(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """[N, D] → states of all tokens, [N, D]; each has seen the tokens up to its own."""
        # Padding stands behind the tokens, so they never see it; a PackedSequence takes three times as long on a CPU.
        grid = layout.pad(x)
        for number, layer in enumerate(self.layers):
            grid, _ = layer(dropout(grid, self.p, generator) if number else grid)
        return layout.unpad(grid)
