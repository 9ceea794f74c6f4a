"""S3-Rec (Zhou et al. 2020): items, attributes, sequence and segment say as much of each other as they can, in four losses.

    AAP  an item, and its attributes                   associated attribute prediction
    MIP  a history with masked items, and those items  masked item prediction
    MAP  the same, and the attributes of those items   masked attribute prediction
    SP   a history without a segment, and the segment  segment prediction

Each maximises a lower bound of mutual information, InfoNCE: −log e^f(x, y) / (e^f(x, y) + Σ e^f(x, ỹ)) over others ỹ, with the bilinear
f(x, y) = xᵀ W y and a W for each loss.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from userclue.config import PretrainSettings
from userclue.data.attribute_codes import Categories, categories_of, code_attribute
from userclue.data.batches import Batch, concatenate
from userclue.data.vocabulary import FIRST_ITEM, MASK
from userclue.encoder import UserEncoder
from userclue.losses import attribute_cross_entropy, pair_cross_entropy
from userclue.nn.attributes import values_of
from userclue.nn.heads import reset_linear_layers
from userclue.objectives.contrastive import histories
from userclue.objectives.items import ItemPrediction
from userclue.train.step import Step
from userclue.views import cut_segment

MASK_SHARE = 0.2
LOSSES = ("aap", "mip", "map", "sp")


class S3Rec(ItemPrediction):
    """The weighted sum of the four losses; without attributes to predict, of MIP and SP alone.

    MIP is scored as `item_loss` says. The attributes are the values of the columns `predicted_attributes` (if not given: of
    `attributes`) as one set, with embeddings that pre-training throws away; AAP reads the embedding of an item's id without what
    `attributes` add to it, or it would find the answer there.
    """

    offsets: Tensor
    codes: Tensor

    def __init__(self, encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> None:
        super().__init__(encoder, settings, generator)
        self.share = MASK_SHARE if settings.mask_share is None else settings.mask_share
        names = predicted(encoder, settings)
        dim = encoder.config.dim
        weights = (settings.aap_weight, settings.mip_weight, settings.map_weight, settings.sp_weight)
        self.weights = {name: weight for name, weight in zip(LOSSES, weights, strict=True) if names or name in ("mip", "sp")}
        self.maps = nn.ModuleDict({name: nn.Linear(dim, dim, bias=False) for name in self.weights})
        reset_linear_layers(self.maps, generator)
        self.values: nn.Embedding | None = None
        if names:
            found = categories_of(encoder.vocabulary, names, settings.attribute_separator)
            self.values = nn.Embedding(len(found.values), dim)
            nn.init.normal_(self.values.weight, std=0.02, generator=generator)
            self.register_buffer("offsets", torch.from_numpy(found.offsets), persistent=False)
            self.register_buffer("codes", torch.from_numpy(found.codes), persistent=False)

    @property
    def warnings(self) -> list[str]:
        """That two of the losses are left out, where they are."""
        if self.values is not None:
            return []
        return [
            "s3rec has no item attributes to predict, so only MIP and SP are minimised; name columns of the item table with "
            "predicted_attributes to have AAP and MAP too"
        ]

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        """One step on B users."""
        chosen = self._choose(batch.tokens, generator)
        masked = replace(batch, tokens=batch.tokens.index_fill(0, chosen, MASK))
        states, targets = self.encoder.states(masked, generator).index_select(0, chosen), batch.tokens[chosen]
        items = self.predict(self.maps["mip"](states), targets, generator)
        losses = {"mip": items.loss, "sp": self._segments(batch, generator)}
        if self.values is not None:
            met, times = batch.tokens[batch.tokens >= FIRST_ITEM].unique(return_counts=True)
            losses["aap"] = self._attributes("aap", self.encoder.embedding.items(met), met, times, generator)
            losses["map"] = self._attributes("map", states, targets, None, generator)
        total = torch.stack([weight * losses[name] for name, weight in self.weights.items()]).sum()

        def metrics() -> dict[str, float]:
            return {**{f"{name}_loss": float(losses[name].detach()) for name in self.weights}, **items.metrics()}

        return Step(total, metrics)

    def _choose(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Places int64 [M] of the items that are masked, each with probability `share`."""
        draw = torch.rand(tokens.shape, generator=generator, device=tokens.device)
        return torch.nonzero((draw < self.share) & (tokens >= FIRST_ITEM))[:, 0]

    def _attributes(self, name: str, x: Tensor, items: Tensor, times: Tensor | None, generator: torch.Generator) -> Tensor:
        """AAP or MAP: rows x [M, D] are to tell the attributes of `items` int64 [M]."""
        assert self.values is not None
        table, (codes, counts) = self.values.weight, values_of(items, self.offsets, self.codes)
        owners = torch.repeat_interleave(counts, output_size=len(codes))
        sampled = None
        if len(table) > self.negatives:
            drawn = torch.randperm(len(table), generator=generator, device=table.device)[: self.negatives]
            sampled = drawn.sort().values
        x = self.maps[name](x)
        with torch.autocast(x.device.type, enabled=False):
            return attribute_cross_entropy(x.to(table.dtype), table, owners, codes, times, sampled)

    def _segments(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """SP, read at UR; negatives are the segments of other people, unless they are the same items."""
        rest, segment, there = cut_segment(batch, generator)
        x, y = self.encoder(concatenate(rest, segment), generator).chunk(2)
        which, person = histories(segment)[there], (batch.users if batch.groups is None else batch.groups)[there]
        alike = (which[:, None] == which) | (person[:, None] == person)
        x, y = self.maps["sp"](x[there]), y[there]
        with torch.autocast(x.device.type, enabled=False):
            x, y = (one.float() if one.dtype == torch.bfloat16 else one for one in (x, y))
            return pair_cross_entropy(x, y, alike)


def predicted(encoder: UserEncoder, settings: PretrainSettings) -> list[str]:
    """The columns whose values are to be predicted: those named, else the categories among the encoder's attributes."""
    if settings.predicted_attributes is not None:
        return list(settings.predicted_attributes)
    separator = settings.attribute_separator
    return [name for name in settings.attributes or () if isinstance(code_attribute(encoder.vocabulary, name, separator), Categories)]
