"""Objectives with negatives: a user's two views find each other among the other users of the batch."""

import torch
from torch import Tensor

from userclue.config import PretrainSettings
from userclue.data.batches import Batch, concatenate
from userclue.encoder import UserEncoder
from userclue.nn.layout import Layout
from userclue.objectives.two_views import FromPair
from userclue.view_losses import info_nce


class InfoNCE(FromPair):
    """NT-Xent (SimCLR, Chen et al. 2020, equation 1) over both views of the batch.

    Another window of the same person and another user with the same history are no negatives. The projector has one hidden layer of
    width D, as SimCLR's, and puts out D, where its 128 = D/16 would leave a narrow encoder's projections hardly any room.
    """

    widths = (1, 1)

    def __init__(self, encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> None:
        super().__init__(encoder, settings, generator)
        self.temperature = settings.temperature

    def loss(self, z1: Tensor, z2: Tensor, batch: Batch) -> Tensor:
        """InfoNCE among 2B views."""
        return info_nce(z1, z2, self.temperature, alike(batch))


def alike(batch: Batch) -> Tensor:
    """bool [2B, 2B], first views before second ones: rows of one person, and rows whose items before augmentation are the same."""
    history = histories(concatenate(batch, batch if batch.other is None else batch.other))
    person = (batch.users if batch.groups is None else batch.groups).repeat(2)
    return (history[:, None] == history) | (person[:, None] == person)


def histories(batch: Batch) -> Tensor:
    """int64 [B], alike for sequences of the same tokens."""
    grid = Layout.of(batch).pad(batch.tokens[:, None])[..., 0]
    which: Tensor = torch.unique(grid, dim=0, return_inverse=True)[1]
    return which
