"""CLUE (paper IV-A, Algorithm 1): two views of one sequence, projector, predictor, stop-gradient, no negatives."""

import torch
from torch import Tensor, nn

from userclue.config import PretrainSettings
from userclue.data.batches import Batch, concatenate
from userclue.encoder import UserEncoder
from userclue.losses import negative_cosine
from userclue.metrics.geometry import alignment, effective_rank, normalised, std_sqrt_d, uniformity
from userclue.nn.heads import predictor, projector, reset_linear_layers
from userclue.objectives.base import Objective
from userclue.train.step import Step
from userclue.views import VIEWS


class Clue(Objective):
    """Symmetrised negative cosine between the prediction of one view and the detached projection of the other (eq. 7).

    `stop_gradient=False` and `predictor=False` are the ablations of Figure 6: both collapse.
    """

    smallest_batch = 2

    def __init__(self, encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> None:
        super().__init__()
        dim = encoder.config.dim
        self.encoder = encoder
        self.projector = projector(dim, settings.projector_norm == "all")
        self.predictor = predictor(dim, settings.predictor_dim or max(dim // 4, 1)) if settings.predictor else nn.Identity()
        self.stop_gradient = settings.stop_gradient
        self.view = VIEWS[settings.view]
        for head in (self.projector, self.predictor):
            reset_linear_layers(head, generator)

    @property
    def constant_rate(self) -> list[nn.Parameter]:
        """The predictor's rate does not decay under a schedule (SimSiam 4.2: it should keep adapting to the representation)."""
        return list(self.predictor.parameters())

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        """One step of Algorithm 1 on B users."""
        both = concatenate(self.view(batch, generator), self.view(batch, generator))
        # One pass through the encoder, which has no batch norm; the heads see each view on its own, as their statistics must.
        first, second = self.encoder(both, generator).chunk(2)
        return self.pair(first, second)

    def pair(self, first: Tensor, second: Tensor) -> Step:
        """The same from the two encodings of the users, [B, D] each."""
        z1, z2 = self.projector(first), self.projector(second)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss = (negative_cosine(p1, self._target(z2)) + negative_cosine(p2, self._target(z1))) / 2
        return Step(loss, lambda: _geometry(z1.detach(), z2.detach()))

    def _target(self, z: Tensor) -> Tensor:
        return z.detach() if self.stop_gradient else z


def _geometry(z1: Tensor, z2: Tensor) -> dict[str, float]:
    a, b = z1.double().cpu().numpy(), z2.double().cpu().numpy()
    return {
        "std_sqrt_d": std_sqrt_d(a),
        "projection_rank": effective_rank(normalised(a)),
        "alignment": alignment(a, b),
        "uniformity": uniformity(a),
    }
