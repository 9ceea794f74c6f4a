"""Items and positions to vectors (paper IV-A-1a)."""

import torch
from torch import Tensor, nn

from userclue.data.vocabulary import PAD, UNK
from userclue.nn.dropout import dropout
from userclue.nn.fused import fits_whole, fused_embedding


class ItemTable(nn.Embedding):
    """Embeddings of the items, [V, D]; training may have it hand out its gradient as the touched rows alone (`train.rows`)."""

    of_items = True


class SequenceEmbedding(nn.Module):
    """Item embedding plus learned position, E_I = E + P (paper IV-A-1a).

    Positions count from the end (0 is UR), which is what left padding to a fixed length amounts to:
    the most recent item has the same position in a short history and in a long one.
    """

    def __init__(self, vocabulary_size: int, max_len: int, dim: int) -> None:
        super().__init__()
        # Given a table, they do not draw one: on a tensor without memory that would cost seconds of imports, and `reset` draws anyway.
        self.items = ItemTable(vocabulary_size, dim, _weight=torch.empty(vocabulary_size, dim))
        self.positions = nn.Embedding(max_len + 1, dim, _weight=torch.empty(max_len + 1, dim))

    def reset(self, generator: torch.Generator) -> None:
        """Draw the tables from N(0, 0.02²); PAD and UNK start at zero, so that an unknown item says nothing."""
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02, generator=generator)
        with torch.no_grad():
            self.items.weight[[PAD, UNK]] = 0.0

    def forward(self, tokens: Tensor, from_end: Tensor, p: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """tokens [N], from_end [N] (0 at UR) → [N, D]; with a generator, dropout of probability `p`."""
        items, places = self.items.weight, self.positions.weight
        if fits_whole(items):
            return fused_embedding(items, places, tokens, from_end, p, generator, self.items.sparse)
        return dropout(self.items(tokens) + self.positions(from_end), p, generator)
