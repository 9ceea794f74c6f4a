"""Where each token of a packed batch stands: its position from the end, and its place in a padded [B, L] grid."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from userclue.data.batches import Batch


@dataclass(frozen=True, eq=False)
class Layout:
    """Index tensors of a batch, shared by all blocks; those of the grid are computed only where something is padded."""

    offsets: Tensor  # int64 [B + 1], contiguous
    longest: int  # L
    tokens: int  # N

    @classmethod
    def of(cls, batch: Batch) -> "Layout":
        """The layout of `batch`, on its own device."""
        return cls(batch.offsets.contiguous(), batch.longest, batch.tokens.shape[0])

    @property
    def size(self) -> int:
        """B."""
        return self.offsets.shape[0] - 1

    @property
    def last(self) -> Tensor:
        """int64 [B], the UR token of each sequence among the N."""
        return self.offsets[1:] - 1

    @cached_property
    def rows(self) -> Tensor:
        """int64 [B + 1], the offsets of one row a sequence."""
        return torch.arange(self.size + 1, device=self.offsets.device)

    @cached_property
    def lengths(self) -> Tensor:
        """int64 [B]."""
        return self.offsets[1:] - self.offsets[:-1]

    @cached_property
    def from_end(self) -> Tensor:
        """int64 [N], 0 at UR."""
        ends = torch.repeat_interleave(self.offsets[1:], self.lengths, output_size=self.tokens)
        return ends - 1 - torch.arange(self.tokens, device=self.offsets.device)

    @cached_property
    def from_start(self) -> Tensor:
        """int64 [N], 0 at the first token of each sequence."""
        starts = torch.repeat_interleave(self.offsets[:-1], self.lengths, output_size=self.tokens)
        return torch.arange(self.tokens, device=self.offsets.device) - starts

    @cached_property
    def cells(self) -> Tensor | None:
        """int64 [N], place of each token in the flat padded grid; None when nothing is padded."""
        if self.tokens == self.size * self.longest:
            return None
        shift = self.rows[:-1] * self.longest - self.offsets[:-1]
        return torch.repeat_interleave(shift, self.lengths, output_size=self.tokens) + torch.arange(self.tokens, device=self.offsets.device)

    @cached_property
    def bias(self) -> Tensor | None:
        """Float [B, 1, 1, L], −inf on padding; None when nothing is padded."""
        if self.cells is None:
            return None
        padding = torch.arange(self.longest, device=self.offsets.device) >= self.lengths[:, None]
        return torch.zeros(padding.shape, device=self.offsets.device).masked_fill_(padding, float("-inf"))[:, None, None, :]

    @cached_property
    def causal_bias(self) -> Tensor:
        """Float [B or 1, 1, L, L]: `bias`, and −inf where the key comes after the query."""
        later = torch.full((self.longest, self.longest), float("-inf"), device=self.offsets.device).triu_(1)[None, None]
        # A padded query would see nothing at all and give NaN: it keeps its own key, and its result is dropped.
        return (
            later
            if self.bias is None
            else (later + self.bias).masked_fill_(torch.eye(self.longest, dtype=torch.bool, device=later.device), 0.0)
        )

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
