"""Objectives that keep the projections' columns apart instead of users: no negatives, no predictor, no target.

Both papers expand the encoder's D = 2,048 to three layers of 8,192: 4D here too.
"""

import torch
from torch import Tensor

from userclue.config import PretrainSettings
from userclue.data.batches import Batch
from userclue.encoder import UserEncoder
from userclue.objectives.two_views import FromPair
from userclue.view_losses import barlow_twins, vicreg


class VICReg(FromPair):
    """VICReg (Bardes et al. 2022): views close, every column's spread at least 1, columns without covariance."""

    widths = (4, 4, 4)

    def __init__(self, encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> None:
        super().__init__(encoder, settings, generator)
        self.weights = (settings.invariance_weight, settings.variance_weight, settings.covariance_weight)

    def loss(self, z1: Tensor, z2: Tensor, batch: Batch) -> Tensor:
        """Equation 6."""
        del batch
        return vicreg(z1, z2, *self.weights)


class Barlow(FromPair):
    """Barlow Twins (Zbontar et al. 2021): the correlation of the two views' columns becomes the identity."""

    widths = (4, 4, 4)

    def __init__(self, encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> None:
        super().__init__(encoder, settings, generator)
        self.redundancy = settings.redundancy_weight

    def loss(self, z1: Tensor, z2: Tensor, batch: Batch) -> Tensor:
        """Equation 1."""
        del batch
        return barlow_twins(z1, z2, self.redundancy)
