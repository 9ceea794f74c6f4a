"""Vertical and horizontal convolutions over the window that ends in UR (Caser, Tang & Wang 2018, section 3.2–3.3)."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from userclue.config import EncoderConfig
from userclue.errors import UsageError
from userclue.nn.dropout import dropout
from userclue.nn.layout import Layout

VERTICAL, HORIZONTAL = 4, 16  # n_v and n_h of the original


class Caser(nn.Module):
    """The L = max_len + 1 last embeddings, zeros before the first, as an image of L rows and D columns.

    Vertical filters (L × 1, n_v = 4) weigh the rows; horizontal ones (h × D for h = 1 … `filter_heights`, n_h = 16 each) slide down it,
    ReLU, and the largest value counts. Both → dropout → FC(D) → ReLU. The original concatenates a user embedding to that, and
    so can say nothing of a new user; here there is none. Its window is 5 items, so heights up to 5 are the default: filters of
    all 51 heights of the default window would cost 88 times as much.
    """

    causal: ClassVar[bool | None] = True
    causal_by_default: ClassVar[bool] = True
    adaptable: ClassVar[bool] = False

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.p, self.window = config.dropout, config.max_len + 1
        heights = range(1, min(config.filter_heights, self.window) + 1)
        self.vertical = nn.Linear(self.window, VERTICAL)
        self.horizontal = nn.ModuleList(nn.Conv1d(config.dim, HORIZONTAL, height) for height in heights)
        self.out = nn.Linear(VERTICAL * config.dim + HORIZONTAL * len(heights), config.dim)

    def reset(self, generator: torch.Generator) -> None:
        """Xavier-uniform filters and matrices drawn from `generator`, zero biases: others would drown embeddings that start small."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """[N, D] → states at the UR tokens, [B, D]; dropout acts only when a generator is given."""
        # A place of a horizontal filter wholly on zeros gives its bias whatever the place. One such is enough, so the grid need not
        # be as long as the window.
        longest = min(layout.longest + len(self.horizontal), self.window)
        grid = self._grid(x, layout, longest)
        columns = linear(grid, self.vertical.weight[:, self.window - longest :], self.vertical.bias).flatten(1)
        rows = []
        for height, layer in enumerate(self.horizontal, start=1):
            tokens = min(layout.longest + height, self.window)
            rows.append(relu(layer(grid[:, :, longest - tokens :])).amax(dim=2))
        out: Tensor = self.out(dropout(torch.cat([columns, *rows], dim=1), self.p, generator))
        return relu(out)

    def states(self, x: Tensor, layout: Layout, generator: torch.Generator | None = None) -> Tensor:
        """Not defined: UsageError."""
        del x, layout, generator
        raise UsageError(
            "caser reads one window, which ends in UR, and has no state for each item; "
            "for an objective or loss that predicts items choose backbone transformer, gru or nextitnet"
        )

    def _grid(self, x: Tensor, layout: Layout, longest: int) -> Tensor:
        """[N, D] → [B, D, longest], UR in the last column, zeros before the first token."""
        ends = torch.arange(1, layout.size + 1, device=x.device) * longest - 1
        cells = torch.repeat_interleave(ends, layout.lengths, output_size=layout.tokens) - layout.from_end
        grid = x.new_zeros(layout.size * longest, x.shape[-1]).index_copy(0, cells, x)
        return grid.view(layout.size, longest, -1).transpose(1, 2)
