"""Where each token of a packed batch stands: its position from the end, and its place in a padded [B, L] grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from userclue.data.batches import Batch


@dataclass(frozen=True)
class Layout:
    """Index tensors derived once a batch and shared by all blocks."""

    size: int  # B
    longest: int  # L
    last: Tensor  # int64 [B], the UR token of each sequence among the N
    from_end: Tensor  # int64 [N], 0 at UR
    cells: Tensor | None  # int64 [N], place of each token in the flat padded grid; None when nothing is padded
    bias: Tensor | None  # float [B, 1, 1, L], −inf on padding; None when nothing is padded

    @classmethod
    def of(cls, batch: Batch) -> "Layout":
        """Compute the layout of `batch` on its own device."""
        offsets, longest = batch.offsets, batch.longest
        lengths = offsets[1:] - offsets[:-1]
        n = batch.tokens.shape[0]
        token = torch.arange(n, device=offsets.device)
        row_start = torch.repeat_interleave(offsets[:-1], lengths, output_size=n)
        row_end = torch.repeat_interleave(offsets[1:], lengths, output_size=n)
        size = len(batch)
        cells = bias = None
        if n != size * longest:
            row = torch.repeat_interleave(torch.arange(size, device=offsets.device), lengths, output_size=n)
            cells = row * longest + token - row_start
            padding = torch.arange(longest, device=offsets.device) >= lengths[:, None]
            bias = torch.zeros(padding.shape, device=offsets.device).masked_fill_(padding, float("-inf"))[:, None, None, :]
        return cls(size, longest, offsets[1:] - 1, row_end - 1 - token, cells, bias)

    def pad(self, x: Tensor) -> Tensor:
        """[N, C] → [B, L, C], zeros where there is no token."""
        if self.cells is None:
            return x.view(self.size, self.longest, -1)
        grid = x.new_zeros(self.size * self.longest, x.shape[-1])
        return grid.index_copy(0, self.cells, x).view(self.size, self.longest, -1)

    def unpad(self, x: Tensor) -> Tensor:
        """[B, L, C] → [N, C]."""
        flat = x.reshape(self.size * self.longest, -1)
        return flat if self.cells is None else flat.index_select(0, self.cells)
