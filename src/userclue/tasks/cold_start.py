"""Cold-start recommendation: items of another domain, from the history in this one (paper V-A-1): softmax over all target items."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from userclue.artifact import Artifact
from userclue.config import FinetuneSettings
from userclue.data.batches import Source
from userclue.data.lookup import Lookup, texts
from userclue.data.splits import Instances, UserSplit, first_at_or_after, split_users
from userclue.data.store import Dataset, Sequences
from userclue.data.targets import choose_targets
from userclue.data.vocabulary import FIRST_ITEM, UNK, Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import ArtifactError, DataError, UsageError
from userclue.nn.heads import linear_head
from userclue.tasks.base import FittedModel, recommend_items

SPLITS = ("user", "instance")
SHARES = "80/5/15"  # what profiling calls its split by user, and so taken here too
PARTS = ("train", "valid", "test")


class ColdStartModel(FittedModel):
    """A fitted recommender of target items; `targets` numbers them, as `vocabulary` numbers the items of histories."""

    task = "cold-start"
    targets: Vocabulary
    parts: pa.Table

    def own_tables(self) -> Mapping[str, pa.Table]:
        """The target items, and who or what was in which part."""
        return {"targets.parquet": self.targets.table, "split.parquet": self.parts}

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Build the model that an opened artifact holds, with its target items and the split it was made with."""
        model = super().from_artifact(artifact)
        model.targets = Vocabulary.load(artifact.path / "targets.parquet")
        if len(model.targets) != model.facts["outputs"]:
            raise ArtifactError(
                f"{artifact.path}: the head scores {model.facts['outputs']} targets, targets.parquet numbers {len(model.targets)}; "
                "they are of different models, make the artifact again"
            )
        model.parts = artifact.table("split.parquet")
        return model

    def recommend(self, histories: Any, k: int = 10, filter_seen: bool = False, **columns: Any) -> tuple[list[list[Any]], np.ndarray]:
        """The k best target items of each user, best first: (ids [n_users][k], scores float32 [n_users, k]).

        Each domain numbers its items for itself, so a target of the same id as an item of the history is in general another thing.
        Where the two share their ids, `filter_seen` leaves out what the history holds. The rest is as for the next item.
        """
        seen = np.full(len(self.vocabulary), UNK, np.int32)
        seen[FIRST_ITEM:] = self.targets.indices(self.vocabulary.table["item_id"])
        return recommend_items(self, self.targets, histories, k, seen if filter_seen else None, **columns)


class ColdStart:
    """Instances (history, one target item) of a dataset's users, at most `max_targets` a user."""

    name = "cold-start"
    primary = "mrr@10"
    ignored_target = UNK

    def __init__(
        self,
        dataset: Dataset,
        sequences: Sequences,
        table: pa.Table,
        label: str,
        split: str,
        settings: FinetuneSettings,
        fitted: ColdStartModel | None = None,
    ) -> None:
        """Join `table` (user_id, item_id, perhaps time; see read_targets) to the dataset's users by id, choose targets, split 80/5/15.

        split: `user` or `80/5/15` (all instances of a user in one part), or `instance` (the paper's, V-A-4). With `fitted`, its target
        items and its split are kept: users (or instances) it has never met are tested on. Raises UsageError for another split, DataError
        when no target fits a user, or none has a history before it.
        """
        split = "user" if split == SHARES else split
        if split not in SPLITS:
            raise UsageError(f"unknown split {split} for {self.name}; known: {', '.join(SPLITS)}")
        self.split, self.seed, self.label, self.max_targets = split, settings.seed, label, settings.max_targets
        times = table["time"].to_numpy() if "time" in table.column_names else None
        self.timed = times is not None
        rows, inputs = self._usable(dataset, sequences, table, settings.before_target)
        users = dataset.user_positions(table["user_id"])[rows]
        items = table["item_id"].combine_chunks().dictionary_encode()
        kept = choose_targets(users, items.indices.to_numpy()[rows], None if times is None else times[rows], self.max_targets, self.seed)
        rows, users, inputs = rows[kept], users[kept], inputs.take(kept)

        groups = users if dataset.people is None else dataset.people[users]
        named = {"user_id": dataset.users.take(pa.array(users))}
        if split == "instance":
            named["item_id"] = table["item_id"].take(pa.array(rows))
        if fitted is None:
            parts = split_users(len(rows), self.seed, groups=groups if split == "user" else None)
        else:
            parts = _assigned(pa.table(named), fitted.parts)
        part = np.empty(len(rows), dtype=object)
        for name in PARTS:
            part[getattr(parts, name)] = name
        self.parts = pa.table({**named, "part": pa.array(part, pa.string())}).group_by([*named, "part"], use_threads=False).aggregate([])

        train = _share(parts.train, groups, settings)
        self.targets = fitted.targets if fitted is not None else _numbered(items, rows[train])
        found = self.targets.indices(table["item_id"].take(pa.array(rows))).astype(np.int64)
        whole = Instances(inputs, found, users)
        self.train, self.valid, self.test = (whole.take(one) for one in (train, parts.valid, parts.test))
        self.histories = sequences  # of all users, labelled or not
        self.n_train, self.outputs = len(self.train), len(self.targets)
        self.conditions = self._conditions()

    def _usable(self, dataset: Dataset, sequences: Sequences, table: pa.Table, before_target: bool) -> tuple[np.ndarray, Sequences]:
        """Rows of `table` that can be instances, int64, and the history of each: where both logs have times, what precedes the target."""
        positions = dataset.user_positions(table["user_id"])
        rows = np.flatnonzero(positions >= 0)
        if not len(rows):
            raise DataError(
                f"none of the users of {len(positions)} targets is among the {dataset.n_users} users of {dataset.path} "
                f"(targets have {table['user_id'][0].as_py()!r}, the dataset {dataset.users[0].as_py()!r}); check the id column"
            )
        self.targets_without_user, self.targets_without_history, self.targets_amid_history = len(positions) - len(rows), 0, 0
        inputs = sequences.take(positions[rows])
        if dataset.times is None or "time" not in table.column_names:
            return rows, inputs
        ends = first_at_or_after(inputs, dataset.times, table["time"].to_numpy()[rows])
        if not before_target:
            self.targets_amid_history = int((ends < inputs.ends).sum())
            return rows, inputs
        some = np.flatnonzero(ends > inputs.starts)
        if not len(some):
            raise DataError(
                f"none of {len(rows)} targets has an event of its user before it; check the times of both logs, or read whole histories "
                "with before_target off (--no-before-target)"
            )
        self.targets_without_history = len(rows) - len(some)
        return rows[some], Sequences(inputs.items, inputs.starts[some], ends[some])

    @property
    def source(self) -> Source:
        """The training instances, the same every epoch."""
        return lambda _: (self.train.inputs, self.train.targets)

    def head(self, encoder: UserEncoder, settings: FinetuneSettings, generator: torch.Generator) -> nn.Module:
        """A linear layer D → V, V counting the target items and the special tokens before them."""
        del settings
        return linear_head(encoder.config.dim, self.outputs, generator)

    def facts(self) -> dict[str, Any]:
        """What task.json says of the data and the split; the sizes of the parts are instances."""
        sizes = {name: len(getattr(self, name)) for name in PARTS}
        users = {f"{name}_users": len(np.unique(getattr(self, name).users)) for name in PARTS}
        return {
            "task": self.name,
            "label": self.label,
            "outputs": self.outputs,
            "split": {"name": self.split, "seed": self.seed, **sizes, **users},
            "target_items": self.targets.n_items,
            "untrained_items": int((self.targets.counts[FIRST_ITEM:] == 0).sum()),
            "untrained_test_targets": int(((self.targets.counts[self.test.targets] == 0) & (self.test.targets != UNK)).sum()),
            "unknown_test_targets": int((self.test.targets == UNK).sum()),
            "targets_without_user": self.targets_without_user,
            "targets_without_history": self.targets_without_history,
        }

    def _conditions(self) -> str:
        chosen = "the most recent" if self.timed else "drawn with the seed"
        facts = self.facts()
        unknown = f" {facts['unknown_test_targets']} are items unknown to the model, and count as misses."
        return (
            f"Split {self.split}, 80/5/15 of {self.split}s, seed {self.seed}; at most {self.max_targets} targets a user ({chosen}), "
            f"each an instance; all {facts['target_items']} target items are candidates, a user's other targets too; ties count against "
            "the system; averaged over instances, 95 % bootstrap intervals over users; "
            f"{facts['untrained_test_targets']} of {len(self.test)} test targets are items without a training instance: candidates all "
            f"the same, with a score that was never trained.{unknown if facts['unknown_test_targets'] else ''}"
        )


def _numbered(items: pa.DictionaryArray, rows: np.ndarray) -> Vocabulary:
    """All the distinct items, by falling count of training instances (at `rows`), then as they first stand; the count is kept."""
    counts = np.bincount(items.indices.to_numpy()[rows], minlength=len(items.dictionary))
    order = np.argsort(-counts, kind="stable")
    return Vocabulary.from_ids(items.dictionary.take(pa.array(order)), counts[order])


def _share(train: np.ndarray, groups: np.ndarray, settings: FinetuneSettings) -> np.ndarray:
    """The training instances of the share of training users that is to be learned from."""
    if settings.train_fraction == 1:
        return train
    users = np.unique(groups[train])
    chosen = np.random.default_rng(settings.seed).permutation(users)[: max(1, round(len(users) * settings.train_fraction))]
    return train[np.isin(groups[train], chosen)]


def _assigned(named: pa.Table, parts: pa.Table) -> UserSplit:
    """The parts in which the users (or instances) named were when the model was made; those that were in none are tested on."""
    rows = Lookup(_keys(parts), "user ids").positions(_keys(named))
    part = np.array([*parts["part"].to_pylist(), "test"], dtype=object)[rows]
    return UserSplit(*(np.flatnonzero(part == name) for name in PARTS))


def _keys(table: pa.Table) -> pa.ChunkedArray:
    """One text a row of its ids."""
    columns = [texts(table[name]) for name in ("user_id", "item_id") if name in table.column_names]
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, pa.scalar("\0", pa.large_string()))
