"""Views: augmented copies of a packed batch (paper IV-B). `dropout` (implicit) changes no token: the masks inside the encoder differ."""

from collections.abc import Callable

import torch

from userclue.data.batches import Batch

View = Callable[[Batch, torch.Generator], Batch]


def dropout(batch: Batch, generator: torch.Generator) -> Batch:
    """The same sequence again; its two encodings differ by their dropout masks alone (paper IV-B-2)."""
    del generator
    return batch


VIEWS: dict[str, View] = {"dropout": dropout}
