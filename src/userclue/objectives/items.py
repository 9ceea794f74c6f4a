"""Objectives that predict items: the next one (SASRec, causal) and masked ones (PeterRec's and BERT4Rec's cloze, bidirectional).

Both score an item by the inner product of a state and the item's embedding (SASRec III-D), or with `tied=False` by a table of its own
that pre-training throws away. Real items alone are predicted, and real items alone are candidates.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from userclue.config import PretrainSettings
from userclue.data.batches import Batch, places_before_items
from userclue.data.vocabulary import FIRST_ITEM, MASK
from userclue.encoder import UserEncoder
from userclue.errors import UsageError
from userclue.item_losses import binary_cross_entropy, other_rows, sampled_cross_entropy, softmax_cross_entropy
from userclue.nn.tables import ItemTable
from userclue.objectives.base import Objective
from userclue.train.step import Step

MASK_SHARE = 0.3  # PeterRec's


class ItemPrediction(Objective):
    """The loss of states that are to predict items, by the settings `item_loss`, `tied`, `negatives` and `negative_power`."""

    log_share: Tensor
    cumulative: Tensor

    def __init__(self, encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> None:
        super().__init__()
        vocabulary = encoder.vocabulary
        self.encoder, self.negatives, self.n_items = encoder, settings.negatives, vocabulary.n_items
        self.loss = settings.item_loss
        if self.loss == "auto":
            self.loss = "full" if self.n_items <= settings.full_softmax_items else "sampled"
        self.own_table = None if settings.tied else ItemTable(len(vocabulary), encoder.config.dim)
        if self.own_table is not None:
            nn.init.normal_(self.own_table.weight, std=0.02, generator=generator)
        # One more than the count: an item that never occurs must be drawn sometimes, or its score is never pushed down.
        weights = (torch.tensor(vocabulary.counts[FIRST_ITEM:], dtype=torch.float64) + 1) ** settings.negative_power
        self.register_buffer("log_share", (weights / weights.sum()).log().float(), persistent=False)
        self.register_buffer("cumulative", weights.cumsum(0), persistent=False)

    @property
    def reads_whole_table(self) -> bool:
        """The full softmax does; drawn negatives do not."""
        return self.loss == "full"

    def predict(self, states: Tensor, targets: Tensor, generator: torch.Generator) -> Step:
        """The step of states [N, D] and their targets, int64 [N], indices of real items."""
        with torch.autocast(states.device.type, enabled=False):  # a sum over thousands of items is no work for bfloat16
            loss, accuracy = self._losses(states.to(self.encoder.embedding.items.weight.dtype), targets, generator)
        return Step(loss, lambda: {"accuracy": float(accuracy)})

    def _table(self) -> Tensor:
        """The embeddings that items are scored by, attributes included, [V, D]."""
        return self.encoder.embedding.table() if self.own_table is None else self.own_table.weight

    def _rows(self, items: Tensor) -> Tensor:
        """Those of `items` alone, int64 [M] → [M, D]."""
        out: Tensor = self.encoder.embedding.rows(items) if self.own_table is None else self.own_table(items)
        return out

    def _losses(self, states: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.loss == "full":
            return softmax_cross_entropy(states, self._table()[FIRST_ITEM:], targets - FIRST_ITEM)
        if self.loss == "bce":
            negatives = other_rows(targets - FIRST_ITEM, self.n_items, generator) + FIRST_ITEM
            return binary_cross_entropy(states, *self._rows(torch.cat([targets, negatives])).chunk(2))
        sampled, log_weights = self._draw(generator)
        rows = self._rows(torch.cat([targets, sampled]))
        return sampled_cross_entropy(states, targets, rows[: len(targets)], sampled, rows[len(targets) :], log_weights)

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Items drawn by their smoothed frequency, each once, int64 [K], and the logarithm of how many items each stands for."""
        points = torch.rand(self.negatives, dtype=torch.float64, generator=generator, device=self.cumulative.device) * self.cumulative[-1]
        drawn, times = torch.searchsorted(self.cumulative, points, right=True).clamp_(max=self.n_items - 1).unique(return_counts=True)
        return drawn + FIRST_ITEM, (times / self.negatives).log() - self.log_share[drawn]


class NextItem(ItemPrediction):
    """The state at each item predicts the item after it; a causal encoder (SASRec III-D).

    Alone it reads histories without their last item, which UR, standing in its place, predicts: else UR, where the user's vector is
    read, would not be learned at all. In a hybrid UR is another objective's, and has no part here.
    """

    def __init__(self, encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> None:
        if not encoder.config.causal:
            raise UsageError("next needs a causal encoder: one that reads both ways sees the item that it is to predict; set causal")
        super().__init__(encoder, settings, generator)
        self.reads_what_follows = settings.objective == "next"

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        """One step on B users."""
        return self.read(self.encoder.states(batch, generator), batch, generator)

    def read(self, states: Tensor, batch: Batch, generator: torch.Generator) -> Step:
        """The same from the states [N, D] of the batch's tokens; with `targets`, what follows each history, from UR's too."""
        places = places_before_items(batch.tokens)
        wanted = batch.tokens[places + 1]
        if batch.targets is not None:
            known = batch.targets >= FIRST_ITEM
            places = torch.cat([places, batch.offsets[1:][known] - 1])
            wanted = torch.cat([wanted, batch.targets[known]])
        return self.predict(states.index_select(0, places), wanted, generator)


class MaskedItem(ItemPrediction):
    """Items are masked with probability `mask_share` and predicted from both sides (PeterRec 3.3: 0.3; of them 80/10/10 as in BERT).

    Of the chosen items 80 % become MASK, 10 % an item drawn uniformly, 10 % stay; the loss is of the chosen alone.
    """

    def __init__(self, encoder: UserEncoder, settings: PretrainSettings, generator: torch.Generator) -> None:
        super().__init__(encoder, settings, generator)
        self.share = MASK_SHARE if settings.mask_share is None else settings.mask_share

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        """One step on B users."""
        tokens, chosen = self.mask(batch.tokens, generator)
        states = self.encoder.states(replace(batch, tokens=tokens), generator)
        return self.predict(states.index_select(0, chosen), batch.tokens[chosen], generator)

    def mask(self, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(tokens [N] with some items masked or exchanged, places of the chosen items int64 [M]); tokens that are no items stay."""
        draw = torch.rand(tokens.shape, generator=generator, device=tokens.device)
        chosen = torch.nonzero((draw < self.share) & (tokens >= FIRST_ITEM))[:, 0]
        kind = torch.rand(chosen.shape, generator=generator, device=tokens.device)
        other = torch.randint(FIRST_ITEM, FIRST_ITEM + self.n_items, chosen.shape, generator=generator, device=tokens.device)
        new = torch.where(kind < 0.8, torch.full_like(other, MASK), torch.where(kind < 0.9, other, tokens[chosen]))
        return tokens.index_copy(0, chosen, new), chosen
