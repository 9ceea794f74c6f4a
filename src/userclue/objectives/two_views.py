"""What the objectives of two views share: the views in one pass of the encoder, the projector, and the shape of the projections."""

from typing import ClassVar

import torch
from torch import Tensor

from userclue.config import PretrainSettings
from userclue.data.batches import Batch, concatenate
from userclue.encoder import UserEncoder
from userclue.metrics.geometry import alignment, effective_rank, normalised, std_sqrt_d, uniformity
from userclue.nn.heads import projector, reset_linear_layers
from userclue.objectives.base import Objective
from userclue.train.step import Step
from userclue.views import view_named


class TwoViews(Objective):
    """Two views of each user and a projector; a subclass makes the step.

    `widths` and `norm_output` are the projector's layers as its paper has them, in multiples of D; `projector_dim` and
    `projector_norm` override them.
    """

    smallest_batch = 2  # the heads have batch norm
    widths: ClassVar[tuple[int, ...]]
    norm_output: ClassVar[bool] = False

    def __init__(self, encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> None:
        super().__init__()
        dim = encoder.config.dim
        widths = [settings.projector_dim or dim * width for width in self.widths]
        norm_output = self.norm_output if settings.projector_norm is None else settings.projector_norm == "all"
        self.encoder = encoder
        self.projector = projector([dim, *widths], norm_output)
        self.hidden_dim, self.projected_dim = widths[0], widths[-1]
        self.view = view_named(settings.view, settings.view_share)
        reset_linear_layers(self.projector, generator)

    def views(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Both views of B users as one batch of 2B, for one pass through the encoder, which has no batch norm."""
        second = batch if batch.other is None else batch.other
        return concatenate(self.view(batch, generator), self.view(second, generator))

    def project(self, both: Tensor) -> Tensor:
        """Both views, [2B, D] → z1 and z2, [2B, W]; the projector sees each view on its own, as its statistics must."""
        z: Tensor = self.projector(both, views=2)
        return z


class FromPair(TwoViews):
    """An objective that needs of the encoder nothing but the two encodings of each user."""

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        """One step on B users."""
        return self.pair(self.encoder(self.views(batch, generator), generator), batch)

    def pair(self, both: Tensor, batch: Batch) -> Step:
        """The step from the encodings of both views of `batch`, the first one's and then the second one's, [2B, D]."""
        z1, z2 = self.project(both).chunk(2)
        with torch.autocast(z1.device.type, enabled=False):  # sums over a batch want full precision
            z1, z2 = (z.float() if z.dtype == torch.bfloat16 else z for z in (z1, z2))
            loss = self.loss(z1, z2, batch)
        return Step(loss, lambda: geometry(z1, z2))

    def loss(self, z1: Tensor, z2: Tensor, batch: Batch) -> Tensor:
        """The loss of two projected views of `batch`, a scalar."""
        raise NotImplementedError


def exchanged(both: Tensor) -> Tensor:
    """The second view before the first, [2B, W]: to each row the same user's other view."""
    return both.roll(len(both) // 2, 0)


def geometry(z1: Tensor, z2: Tensor) -> dict[str, float]:
    """What is logged of the projections z1, z2 [B, W] of two views: has the first collapsed, and how far do they agree?"""
    a, b = (z.detach().double().cpu().numpy() for z in (z1, z2))
    return {
        "std_sqrt_d": std_sqrt_d(a),
        "projection_rank": effective_rank(normalised(a)),
        "alignment": alignment(a, b),
        "uniformity": uniformity(a),
    }
