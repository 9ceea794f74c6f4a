"""The table of an item's own embedding, and of its attributes' values."""

from torch import nn


class ItemTable(nn.Embedding):
    """Embeddings of the items, [V, D]; training may have it hand out its gradient as the touched rows alone (`train.rows`)."""

    of_items = True
