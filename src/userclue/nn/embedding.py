"""Items and positions to vectors (paper IV-A-1a)."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from userclue.data.vocabulary import PAD, UNK
from userclue.nn.attributes import ItemAttributes
from userclue.nn.distinct import distinct
from userclue.nn.dropout import dropout
from userclue.nn.fused import fits_whole, fused_embedding
from userclue.nn.layout import Layout
from userclue.nn.tables import ItemTable

FACTOR_STD = 0.1  # of the items' vectors when they start from factors


class SequenceEmbedding(nn.Module):
    """Item embedding plus learned position, E_I = E + P (paper IV-A-1a); with `attributes`, an item's embedding is its id's and theirs.

    Positions count from the end (0 is UR), which is what left padding to a fixed length amounts to:
    the most recent item has the same position in a short history and in a long one.
    """

    def __init__(self, vocabulary_size: int, max_len: int, dim: int, attributes: ItemAttributes | None = None) -> None:
        super().__init__()
        # Given a table, they do not draw one: on a tensor without memory that would cost seconds of imports, and `reset` draws anyway.
        self.items = ItemTable(vocabulary_size, dim, _weight=torch.empty(vocabulary_size, dim))
        self.positions = nn.Embedding(max_len + 1, dim, _weight=torch.empty(max_len + 1, dim))
        self.attributes = attributes

    def reset(self, generator: torch.Generator) -> None:
        """Draw the tables from N(0, 0.02²); PAD and UNK start at zero, so that an unknown item says nothing."""
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02, generator=generator)
        with torch.no_grad():
            self.items.weight[[PAD, UNK]] = 0.0
        if self.attributes is not None:
            self.attributes.reset(generator)

    def take_items(self, vectors: np.ndarray) -> None:
        """Start the items from `vectors`, float32 [V, D] of mean square 1; a row of zeros leaves its item as it was drawn."""
        with torch.no_grad():
            met = torch.from_numpy(np.flatnonzero(vectors.any(axis=1)))
            self.items.weight[met] = FACTOR_STD * torch.from_numpy(vectors)[met]

    def rows(self, items: Tensor) -> Tensor:
        """Whole embeddings, attributes included, of the items int64 [M] → [M, D]: what a head tied to the items scores by."""
        ids: Tensor = self.items(items)
        out: Tensor = ids if self.attributes is None else self.attributes(ids, items)
        return out

    def table(self) -> Tensor:
        """Whole embeddings of all indices, [V, D]."""
        ids = self.items.weight
        if self.attributes is None:
            return ids
        out: Tensor = self.attributes(ids, torch.arange(len(ids), device=ids.device))
        return out

    def forward(self, tokens: Tensor, layout: Layout, p: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """tokens [N] → [N, D]; with a generator, dropout of probability `p`."""
        items, places, sparse = self.items.weight, self.positions.weight, self.items.sparse
        if self.attributes is not None:
            # An item's embedding is put together once, however often the batch has it; what follows looks it up among those met.
            met, tokens = distinct(tokens, len(items))
            items, sparse = self.rows(met), False
        if fits_whole(items):
            return fused_embedding(items, places, tokens, layout, p, generator, sparse)
        return dropout(embedding(tokens, items, sparse=sparse) + self.positions(layout.from_end), p, generator)
