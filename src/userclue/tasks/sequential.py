"""Sequential recommendation: the next item from the state at UR, softmax over all items (paper V-A-3)."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from userclue.config import FinetuneSettings
from userclue.data.batches import Source
from userclue.data.splits import leave_one_out, time_split
from userclue.data.store import Dataset, Sequences
from userclue.data.vocabulary import UNK
from userclue.encoder import UserEncoder
from userclue.errors import DataError, UsageError
from userclue.metrics.blocks import InnerProducts, Rows
from userclue.nn.heads import linear_head
from userclue.tasks.base import FittedModel, recommend_items
from userclue.tasks.wide import Transitions

SPLITS = ("leave-one-out", "time")


class TiedHead(nn.Module):
    """Scores by the inner product with the encoder's own item embeddings, attributes included, plus a bias an item; saved only once."""

    reads_whole_table = True

    def __init__(self, encoder: UserEncoder) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(len(encoder.vocabulary)))
        self._embedding = [encoder.embedding]  # in a list, so that the table is not registered here as well

    @property
    def weight(self) -> Tensor:
        """[V, D], the encoder's item embeddings."""
        return self._embedding[0].table()

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] → [B, V]."""
        return x @ self.weight.T + self.bias


class SequentialModel(FittedModel):
    """A fitted recommender of the next item."""

    task = "sequential"
    wide_kind = Transitions

    @classmethod
    def blank_head(cls, encoder: UserEncoder, facts: Mapping[str, Any]) -> nn.Module:
        """The linear or tied head that `facts` name."""
        return TiedHead(encoder) if facts["settings"]["head"] == "tied" else super().blank_head(encoder, facts)

    @torch.inference_mode()
    def logits(self, sequences: Sequences) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As for every model; with transitions, log-probabilities of network and chain together."""
        transitions = self.wide if isinstance(self.wide, Transitions) else None
        chain = transitions and transitions.chain()
        for users, logits in super().logits(sequences):
            yield users, transitions.blended(chain, logits, sequences.take(users)) if transitions and chain else logits

    def scorer(self, sequences: Sequences) -> Rows | InnerProducts:
        """The scores by which candidates are ranked: with transitions no inner products, but rows of all items."""
        products, transitions = self.inner_products(sequences), self.wide
        if not isinstance(transitions, Transitions):
            return products
        chain = transitions.chain()

        def rows(instances: np.ndarray) -> np.ndarray:
            logits = products.vectors(instances) @ products.items.cpu().numpy().T
            if products.bias is not None:
                logits += products.bias.cpu().numpy()
            return np.asarray(transitions.blended(chain, logits, sequences.take(instances)))

        return rows

    def recommend(self, histories: Any, k: int = 10, filter_seen: bool = True, **columns: Any) -> tuple[list[list[Any]], np.ndarray]:
        """The k best next items of each user, best first: (ids [n_users][k], scores float32 [n_users, k]).

        `filter_seen` leaves out what the history holds. `histories` as for UserEncoder.encode. Where fewer than k items
        remain, the list is shorter and its scores end in −inf. Raises UsageError for k < 1.
        """
        everything = np.arange(len(self.vocabulary))
        return recommend_items(self, self.vocabulary, histories, k, everything if filter_seen else None, **columns)


class Sequential:
    """Next-item instances of a dataset: trained on random prefixes of what comes before the held-out events."""

    name = "sequential"
    primary = "mrr@10"
    ignored_target = UNK

    def __init__(
        self,
        dataset: Dataset,
        sequences: Sequences,
        vocabulary_size: int,
        split: str,
        seed: int,
        prefixes: int,
        train_fraction: float = 1.0,
    ) -> None:
        """`prefixes`: training instances drawn from each user an epoch. Raises DataError when no user has events enough for the split."""
        if split == "leave-one-out":
            parts = leave_one_out(sequences)
        elif split == "time":
            parts = time_split(sequences, dataset.times)
        else:
            raise UsageError(f"unknown split {split} for sequential; known: {', '.join(SPLITS)}")
        self.split, self.seed, self.prefixes = split, seed, prefixes
        self.outputs = vocabulary_size
        self.history = parts.train
        self.train = parts.train.take(np.flatnonzero(parts.train.lengths >= 2))
        if len(self.train) == 0:
            raise DataError(
                f"{dataset.path}: no user keeps two events to train on after the {split} split; its longest history has "
                f"{int(sequences.lengths.max(initial=0))} events"
            )
        if train_fraction < 1:
            chosen = np.random.default_rng(seed).permutation(len(self.train))[: max(1, round(len(self.train) * train_fraction))]
            self.train = self.train.take(np.sort(chosen))
            self.history = self.train
        self.n_train = len(self.train) * prefixes
        self.valid, self.test = parts.valid, parts.test
        # With a split by time: the earliest event that validates, epoch ms; nothing learned from may be later.
        self.held_out_from = int(dataset.times[self.valid.inputs.ends].min()) if dataset.times is not None else 0
        self.conditions = (
            f"Split {split}; every item of the vocabulary is a candidate, those in the user's history too unless said otherwise; "
            f"ties count against the system; one target a user, averaged over users; 95 % bootstrap intervals over users; seed {seed}."
        )

    @property
    def source(self) -> Source:
        """Each epoch draws `prefixes` cuts in each training history: input before the cut, target at it."""

        def draw(generator: np.random.Generator) -> tuple[Sequences, np.ndarray]:
            starts, lengths = np.repeat(self.train.starts, self.prefixes), np.repeat(self.train.lengths, self.prefixes)
            ends = starts + generator.integers(1, lengths)
            return Sequences(self.train.items, starts, ends), np.asarray(self.train.items[ends])

        return draw

    @property
    def whole(self) -> Source:
        """Whole training histories, the last event the target: each step learns every position of each window once.

        A history comes as often in an epoch as `source` draws a prefix of it, so that an epoch has as many steps.
        """
        starts, ends = (np.repeat(bounds, self.prefixes) for bounds in (self.train.starts, self.train.ends - 1))
        histories = Sequences(self.train.items, starts, ends)
        return lambda _: (histories, np.asarray(histories.items[ends]))

    def head(self, encoder: UserEncoder, settings: FinetuneSettings, generator: torch.Generator) -> nn.Module:
        """`linear`: a layer D → V of its own; `tied`: the encoder's item embeddings; `copied`: a layer of its own that starts as they are.

        Raises UsageError when every position is to be learned from and the encoder would see what it is to predict.
        """
        if settings.positions == "all" and not encoder.config.causal:
            raise UsageError(
                "positions=all learns each item from those before it, but this encoder was pre-trained to read both ways; pre-train with "
                "--causal (or --objective next), fit it with --causal, or leave positions at last"
            )
        if settings.head == "tied":
            return TiedHead(encoder)
        head = linear_head(encoder.config.dim, self.outputs, generator)
        if settings.head == "copied":
            with torch.no_grad():
                head.weight.copy_(encoder.embedding.table())
                head.bias.zero_()
        return head

    def facts(self) -> dict[str, Any]:
        """What task.json says of the data and the split."""
        split = {"name": self.split, "seed": self.seed, "train": len(self.train), "valid": len(self.valid), "test": len(self.test)}
        return {"task": self.name, "label": "next item", "outputs": self.outputs, "split": split}
