"""What all tasks share: a part of labelled sequences, the fitted model, and the module that trains it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from userclue.artifact import Artifact, write_artifact
from userclue.card import model_card
from userclue.config import FinetuneSettings
from userclue.data.batches import Batch, Source, places_before_items
from userclue.data.inputs import Histories, open_histories
from userclue.data.splits import Instances
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, UNK, UR, Vocabulary
from userclue.encoder import UserEncoder, load_tensors
from userclue.encoding import ENCODE_CHUNK
from userclue.errors import ArtifactError, UsageError
from userclue.item_losses import binary_cross_entropy, other_rows, softmax_cross_entropy
from userclue.metrics.blocks import InnerProducts, Rows
from userclue.metrics.ranking import best_items
from userclue.nn.adapters import adapted_parameters
from userclue.tasks.wide import Transitions, WidePart
from userclue.train.journal import Row
from userclue.train.step import Step


class FittedModel(nn.Module):
    """An encoder and a softmax head on its UR state (paper IV-C). `facts` is what task.json says of the fit."""

    task = ""
    wide_kind: type[WidePart | Transitions] = WidePart

    def __init__(self, encoder: UserEncoder, head: nn.Module, facts: dict[str, Any]) -> None:
        super().__init__()
        self.encoder, self.head, self.facts = encoder, head, facts
        self.wide: WidePart | Transitions | None = None
        self.rows: list[Row] = []

    @property
    def vocabulary(self) -> Vocabulary:
        """Item ids of the model."""
        return self.encoder.vocabulary

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Logits [B, K]."""
        out: Tensor = self.head(self.encoder(batch, generator))
        return out

    @classmethod
    def blank_head(cls, encoder: UserEncoder, facts: Mapping[str, Any]) -> nn.Module:
        """The head that `facts` describe, its weights to be loaded: a linear layer D → K."""
        return nn.Linear(encoder.config.dim, facts["outputs"])

    def own_tables(self) -> Mapping[str, pa.Table]:
        """Tables without which the model cannot be loaded, by file name."""
        return {}

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False, tables: Mapping[str, pa.Table] | None = None) -> Artifact:
        """Write the fitted model's folder; UsageError when it exists and `overwrite` is not set."""
        config = self.encoder.to_config()
        return write_artifact(
            Path(path),
            "fitted",
            config=config,
            tensors={
                "model.safetensors": self.encoder.state_dict(),
                "head.safetensors": self.head.state_dict(),
                **({} if self.wide is None else {"wide.safetensors": self.wide.state_dict()}),
            },
            vocabulary=self.vocabulary,
            rows=self.rows,
            card=model_card(config, self.vocabulary.n_items, self.rows[-1] if self.rows else {}, self.facts),
            documents={"task.json": self.facts},
            tables={**self.own_tables(), **(tables or {})},
            overwrite=overwrite,
        )

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Load a fitted model; ArtifactError when the folder is damaged, of another task, or its parts do not fit."""
        return cls.from_artifact(Artifact.open(path, ("fitted",)))

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Build the model that an opened artifact holds."""
        facts = artifact.task
        if facts.get("task") != cls.task:
            raise ArtifactError(f"{artifact.path}: was fitted to {facts.get('task')}, not to {cls.task}")
        encoder = UserEncoder.from_artifact(artifact)
        with torch.device("meta"):
            head = cls.blank_head(encoder, facts)
        load_tensors(head, artifact.tensors("head.safetensors"), artifact.path)
        model = cls(encoder, head, facts)
        if facts["settings"].get("wide", "none") != "none":
            try:
                model.wide = cls.wide_kind(**artifact.tensors("wide.safetensors"))
            except TypeError:
                raise ArtifactError(f"{artifact.path / 'wide.safetensors'}: holds other tensors than task.json tells of") from None
        model.rows = artifact.rows
        return model

    @torch.inference_mode()
    def logits(self, sequences: Sequences) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(positions int64 [b], logits float32 [b, K]) batch by batch, at most 64 MB of them, so that [all users, K] need never exist."""
        device = next(self.parameters()).device
        for batch in self.encoder.batches(sequences, most=max(1, (1 << 24) // self.facts["outputs"])):
            logits = self(batch.to(device)).float()
            if isinstance(self.wide, WidePart):
                logits += self.wide(torch.from_numpy(self.wide.features(sequences.take(batch.users.numpy()))).to(device))
            yield batch.users.numpy(), logits.cpu().numpy()

    def scores(self, sequences: Sequences) -> np.ndarray:
        """Logits float32 [B, K] in the order of `sequences`."""
        out = np.empty((len(sequences), self.facts["outputs"]), dtype=np.float32)
        for users, logits in self.logits(sequences):
            out[users] = logits
        return out

    def scorer(self, sequences: Sequences) -> Rows | InnerProducts:
        """The scores by which candidates are ranked."""
        return self.inner_products(sequences)

    def inner_products(self, sequences: Sequences) -> InnerProducts:
        """The same logits for ranking: vectors of `sequences` and rows of a linear head, to be multiplied a block at a time.

        A history that several sequences share is encoded once.
        """

        def vectors(rows: np.ndarray) -> np.ndarray:
            histories, which = sequences.take(rows).distinct()
            found = self.encoder.vectors(histories)
            if isinstance(self.wide, WidePart):
                found = np.concatenate([found, self.wide.features(histories)], axis=1)
            return np.asarray(found[which])

        weight, bias = (getattr(self.head, name).detach() for name in ("weight", "bias"))
        if isinstance(self.wide, WidePart):
            weight, bias = torch.cat([weight, self.wide.weight], dim=1), bias + self.wide.bias
        return InnerProducts(vectors, weight, bias)

    def mean_loss(self, part: Instances) -> float:
        """Mean cross-entropy on a part, in nats; instances whose target is unknown to the model are left out."""
        total, count = 0.0, 0
        for users, logits in self.logits(part.inputs):
            known = part.targets[users] != UNK if self.facts["task"] != "profiling" else np.ones(len(users), bool)
            losses = cross_entropy(
                torch.from_numpy(logits[known]), torch.from_numpy(part.targets[users][known].astype(np.int64)), reduction="sum"
            )
            total, count = total + float(losses), count + int(known.sum())
        return total / max(count, 1)


class Training(nn.Module):
    """Softmax cross-entropy on the UR state (paper IV-C-2).

    In `probe` mode the encoder is frozen and only the head learns; in `adapter` mode its patches and second LayerNorms learn too
    (PeterRec, section 3.3).

    With `positions="all"` the state at each item of the history predicts the item after it as well, by the same head; with
    `item_loss="bce"` then against one other item (SASRec, eq. 7) in place of all.
    """

    def __init__(self, model: FittedModel, mode: str, ignored_target: int, positions: str = "last", item_loss: str = "full") -> None:
        super().__init__()
        self.model, self.mode, self.ignored_target, self.positions = model, mode, ignored_target, positions
        self.item_loss = item_loss
        if mode in ("probe", "adapter"):
            model.encoder.requires_grad_(False)
        if mode == "adapter":
            for parameter in adapted_parameters(model.encoder.backbone):
                parameter.requires_grad_(True)

    @property
    def reads_whole_table(self) -> bool:
        """Whether the head scores by the item table, so that every row of it gets a gradient."""
        return bool(getattr(self.model.head, "reads_whole_table", False))

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        """One step on B labelled sequences."""
        assert batch.targets is not None
        if self.positions == "all":
            return self._everywhere(batch, batch.targets, generator)
        logits = self.model(batch, self._dropping(generator))
        return Step(cross_entropy(logits, batch.targets, ignore_index=self.ignored_target), dict)

    def _dropping(self, generator: torch.Generator | None) -> torch.Generator | None:
        return None if self.mode == "probe" else generator

    def _everywhere(self, batch: Batch, targets: Tensor, generator: torch.Generator | None) -> Step:
        states, places = self.model.encoder.states(batch, self._dropping(generator)), places_before_items(batch.tokens)
        wanted, read = torch.cat([targets, batch.tokens[places + 1]]), torch.cat([batch.offsets[1:] - 1, places])
        if self.model.encoder.config.readout == "item":  # no UR among the states: one less for each that stands before or at the place
            read = read - (batch.tokens == UR).cumsum(0)[read]
        states = states.index_select(0, read)
        head: Any = self.model.head
        if self.item_loss == "full":
            loss, accuracy = softmax_cross_entropy(states, head.weight, wanted, head.bias, self.ignored_target)
        else:
            loss, accuracy = self._against_one(states[wanted != self.ignored_target], wanted[wanted != self.ignored_target], generator)
        return Step(loss, lambda: {"accuracy": float(accuracy)})

    def _against_one(self, states: Tensor, wanted: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        head: Any = self.model.head
        weight = head.weight  # once: with item attributes a tied head puts its table together anew
        others = other_rows(wanted - FIRST_ITEM, len(weight) - FIRST_ITEM, generator) + FIRST_ITEM
        # The bias as one dimension more, whose state is 1.
        rows = [torch.cat([weight[items], head.bias[items, None]], dim=1) for items in (wanted, others)]
        return binary_cross_entropy(torch.cat([states, states.new_ones(len(states), 1)], dim=1), *rows)


class Task(Protocol):
    """A downstream task on one dataset and split: where its instances come from and what its head is."""

    name: str
    primary: str
    outputs: int
    ignored_target: int
    n_train: int
    train: Any
    valid: Instances
    test: Instances
    conditions: str

    @property
    def source(self) -> Source:
        """Where an epoch's training instances come from."""

    def head(self, encoder: UserEncoder, settings: FinetuneSettings, generator: torch.Generator) -> nn.Module:
        """The head on the UR state, its weights drawn from `generator`."""

    def facts(self) -> dict[str, Any]:
        """What task.json says of the data and the split."""


def recommend_items(
    model: FittedModel, candidates: Vocabulary, histories: Any, k: int, seen: np.ndarray | None, **columns: Any
) -> tuple[list[list[Any]], np.ndarray]:
    """The k best candidates of each user, best first: (ids [n_users][k], scores float32 [n_users, k]).

    seen: int [V] or None, the candidate that each item of a history takes out of the answer (a special token: none). Where fewer
    than k candidates remain, the list is shorter and its scores end in −inf. Raises UsageError for k < 1.
    """
    if k < 1:
        raise UsageError(f"k must be at least 1; got {k}")
    k = min(k, candidates.n_items)
    items: list[list[Any]] = []
    kept: list[np.ndarray] = []
    with open_histories(histories, model.vocabulary, **columns) as opened:
        for sequences, _ in opened.chunks(ENCODE_CHUNK):
            flat, offsets = sequences.gather()
            taken_out = None if seen is None else Sequences.from_offsets(seen[flat], offsets)
            best, values = best_items(model.scorer(sequences), len(sequences), k, taken_out)
            left = np.isfinite(values)
            ids = candidates.ids(best[left]).to_pylist()
            ends = np.cumsum(np.count_nonzero(left, axis=1)).tolist()
            items += [ids[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
            kept.append(values)
    return items, np.concatenate(kept) if kept else np.empty((0, k), dtype=np.float32)


def chunked_logits(model: FittedModel, opened: Histories, size: int = 8192) -> Iterator[tuple[Sequences, np.ndarray]]:
    """(sequences, logits float32 [b, K]) of consecutive users."""
    width = max(1, min(size, (1 << 26) // max(model.facts["outputs"], 1)))
    for sequences, _ in opened.chunks(width):
        yield sequences, model.scores(sequences)
