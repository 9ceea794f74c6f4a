"""What all objectives share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from userclue.data.batches import Batch
from userclue.encoder import UserEncoder
from userclue.train.step import Step


class Objective(nn.Module):
    """A module made from (encoder, settings, generator) that turns a batch and a generator into a Step.

    Where it can do with the encoder's pass over the batch as it stands, it offers one of two methods more, so that `hybrid` needs one
    pass for several objectives: `pair(both, batch)` for two encodings of the batch's users, one after the other [2B, D], and
    `read(states, batch, generator)` for the states [N, D] of all tokens.
    """

    encoder: UserEncoder
    smallest_batch = 1
    reads_what_follows = False  # histories come without their last item, which is their target
    pair: Callable[[Tensor, Batch], Step] | None = None
    read: Callable[[Tensor, Batch, torch.Generator], Step] | None = None

    @property
    def constant_rate(self) -> list[nn.Parameter]:
        """Parameters whose learning rate a schedule leaves alone."""
        return []

    @property
    def warnings(self) -> list[str]:
        """What is to be said of the run because of what this objective found in settings and data."""
        return []

    @property
    def reads_whole_table(self) -> bool:
        """Whether a step needs every row of the item table, so that all of them get a gradient."""
        return False
