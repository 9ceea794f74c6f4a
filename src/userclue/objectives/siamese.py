"""Siamese objectives without negatives: a predictor, and a target that no gradient reaches, keep them from collapsing."""

import copy
import math

import torch
from torch import Tensor, nn

from userclue.config import PretrainSettings
from userclue.data.batches import Batch
from userclue.encoder import UserEncoder
from userclue.losses import negative_cosine
from userclue.nn.heads import Head, compared, predictor, reset_linear_layers
from userclue.objectives.two_views import FromPair, TwoViews, exchanged, geometry
from userclue.train.step import Step


class Clue(FromPair):
    """Symmetrised negative cosine between the prediction of one view and the detached projection of the other (eq. 7).

    `stop_gradient=False` and `predictor=False` are the ablations of Figure 6: both collapse.
    """

    widths = (1, 1, 1)
    norm_output = True

    def __init__(self, encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> None:
        super().__init__(encoder, settings, generator)
        width = self.projected_dim
        self.predictor = predictor(width, settings.predictor_dim or max(width // 4, 1)) if settings.predictor else Head()
        self.stop_gradient = settings.stop_gradient
        reset_linear_layers(self.predictor, generator)

    @property
    def constant_rate(self) -> list[nn.Parameter]:
        """The predictor's rate does not decay under a schedule (SimSiam 4.2: it should keep adapting to the representation)."""
        return list(self.predictor.parameters())

    def pair(self, both: Tensor, batch: Batch) -> Step:
        """One step of Algorithm 1 from the encodings of both views, the first one's and then the second one's, [2B, D]."""
        del batch
        at_once = compared(self.projector, self.predictor, both) if self.stop_gradient else None
        if at_once is not None:
            loss, z = at_once
        else:
            z = self.project(both)
            target = z.detach() if self.stop_gradient else z
            # The mean over the rows of both views is D(p1, z2) / 2 + D(p2, z1) / 2.
            loss = negative_cosine(self.predictor(z, views=2), exchanged(target))
        return Step(loss, lambda: geometry(*z.chunk(2)))


class Byol(TwoViews):
    """BYOL (Grill et al. 2020): the target is another network, whose weights follow the online one's as a moving average.

    The loss is CLUE's negative cosine, to the target's projections; the paper's equation 2 is 2 + 2 times that for each direction.
    Projector and predictor have one hidden layer of 2D, as the paper's 4,096 for D = 2,048; both put out D, where its 256 = D/8 would
    leave a narrow encoder's projections hardly any room.
    """

    widths = (2, 1)

    def __init__(self, encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> None:
        super().__init__(encoder, settings, generator)
        self.predictor = predictor(self.projected_dim, settings.predictor_dim or self.hidden_dim)
        reset_linear_layers(self.predictor, generator)
        self.first_momentum = settings.target_momentum
        self.target_encoder = type(encoder).blank(encoder.config, encoder.vocabulary)
        self.target_encoder.load_state_dict({name: tensor.clone() for name, tensor in encoder.state_dict().items()}, assign=True)
        self.target_projector = copy.deepcopy(self.projector)
        for target in (self.target_encoder, self.target_projector):
            target.requires_grad_(False)

    def follow(self, progress: float) -> None:
        """Move the target after the online network: the momentum rises from the first to 1 by a cosine.

        progress: share of the run that is done, in [0, 1].
        """
        step = (1 - self.first_momentum) * (math.cos(math.pi * min(progress, 1.0)) + 1) / 2
        with torch.no_grad():
            for online, target in ((self.encoder, self.target_encoder), (self.projector, self.target_projector)):
                for source, followed in zip(online.parameters(), target.parameters(), strict=True):
                    followed.lerp_(source, step)

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        """One step of BYOL's Algorithm 1 on B users."""
        both = self.views(batch, generator)
        z = self.project(self.encoder(both, generator))
        p = self.predictor(z, views=2)
        with torch.no_grad():
            target = self.target_projector(self.target_encoder(both, generator), views=2)
        return Step(negative_cosine(p, exchanged(target)), lambda: geometry(*z.chunk(2)))
