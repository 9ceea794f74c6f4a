"""User profiling: one label a user, softmax over classes (paper V-A-2); users are split 80/5/15."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from scipy.special import softmax
from torch import nn

from userclue.artifact import Artifact
from userclue.config import FinetuneSettings
from userclue.data.batches import Source
from userclue.data.inputs import open_histories
from userclue.data.lookup import Lookup
from userclue.data.splits import Instances, UserSplit, split_users
from userclue.data.store import Dataset, Sequences
from userclue.encoder import UserEncoder
from userclue.errors import DataError
from userclue.nn.heads import linear_head
from userclue.tasks.base import FittedModel, chunked_logits

SPLITS = ("80/5/15",)


class ProfilingModel(FittedModel):
    """A fitted classifier of users."""

    task = "profiling"
    parts: pa.Table | None = None

    def own_tables(self) -> Mapping[str, pa.Table]:
        """Who was in which part."""
        return {} if self.parts is None else {"split.parquet": self.parts}

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Build the model that an opened artifact holds, with the split it was made with."""
        model = super().from_artifact(artifact)
        model.parts = artifact.table("split.parquet")
        return model

    @property
    def classes(self) -> np.ndarray:
        """Class names, in the order of the columns of `predict_proba`."""
        return np.array(self.facts["classes"], dtype=object)

    def predict_proba(self, histories: Any, **columns: Any) -> np.ndarray:
        """float64 [n_users, K]; `histories` as for UserEncoder.encode."""
        with open_histories(histories, self.vocabulary, **columns) as opened:
            parts = [softmax(logits.astype(np.float64), axis=1) for _, logits in chunked_logits(self, opened)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes)))

    def predict(self, histories: Any, **columns: Any) -> np.ndarray:
        """The likeliest class of each user, as text."""
        return np.asarray(self.classes[self.predict_proba(histories, **columns).argmax(axis=1)])


class Profiling:
    """Labelled users of a dataset, split by user with a seed."""

    name = "profiling"
    primary = "accuracy"
    ignored_target = -100

    def __init__(
        self,
        dataset: Dataset,
        sequences: Sequences,
        labels: pa.Table,
        label: str,
        settings: FinetuneSettings,
        fitted: "ProfilingModel | None" = None,
    ) -> None:
        """Join `labels` (user_id, label) to the dataset's users, by id, and split them 80/5/15 with the settings' seed.

        With `fitted`, its classes and its split are kept: users it has never met are test users.
        Raises DataError when no label fits a user, the labels that do are all the same, or the fitted model knows other classes.
        """
        positions = dataset.user_positions(labels["user_id"])
        known = np.flatnonzero(positions >= 0)
        if not len(known):
            raise DataError(
                f"none of the {len(positions)} labelled users is among the {dataset.n_users} users of {dataset.path} "
                f"(labels have {labels['user_id'][0].as_py()!r}, the dataset {dataset.users[0].as_py()!r}); check the id column"
            )
        known = known[np.argsort(positions[known], kind="stable")]
        users = positions[known]
        text = np.array(labels["label"].take(pa.array(known)).to_pylist(), dtype=object)
        self.labels_without_user = len(positions) - len(known)
        self.label, seed = label, settings.seed
        self.classes, targets = np.unique(text, return_inverse=True)
        if fitted is not None:
            targets = _known_classes(self.classes, fitted.classes)[targets]
            self.classes = fitted.classes
        elif len(self.classes) < 2:
            raise DataError(f"all {len(users)} labels are {self.classes[0]!r}; a classifier needs at least two classes")
        self.outputs, self.seed = len(self.classes), seed
        # The windows of one person must not be split between train and test.
        groups = None if dataset.people is None else dataset.people[users]
        parts = _assigned(dataset, users, fitted) if fitted is not None else split_users(len(users), seed, groups=groups)
        whole = Instances(sequences.take(users), targets.astype(np.int64), users)
        self.train, self.valid, self.test = (whole.take(part) for part in (parts.train, parts.valid, parts.test))
        self._all_train = self.train  # those that train_fraction leaves out are not tested on later either
        if settings.train_fraction < 1:
            share = max(1, round(len(self.train) * settings.train_fraction))
            chosen = np.random.default_rng(seed).permutation(len(self.train))[:share]
            self.train = self.train.take(np.sort(chosen))
        self.histories = sequences  # of all users, labelled or not
        self.n_train = len(self.train)
        self.conditions = (
            f"Split 80/5/15 by user, seed {seed}; one instance a user; accuracy averaged over users, macro-F1 over classes, "
            "AUROC one class against the rest; 95 % bootstrap intervals over test users."
        )

    @property
    def source(self) -> Source:
        """The training users, the same every epoch."""
        return lambda _: (self.train.inputs, self.train.targets)

    def head(self, encoder: UserEncoder, settings: FinetuneSettings, generator: torch.Generator) -> nn.Module:
        """A linear layer D → K."""
        del settings
        return linear_head(encoder.config.dim, self.outputs, generator)

    def facts(self) -> dict[str, Any]:
        """What task.json says of the data and the split."""
        return {
            "task": self.name,
            "label": self.label,
            "classes": self.classes.tolist(),
            "outputs": self.outputs,
            "split": {"name": "80/5/15", "seed": self.seed, "train": self.n_train, "valid": len(self.valid), "test": len(self.test)},
            "labels_without_user": self.labels_without_user,
        }

    def parts(self, dataset: Dataset) -> pa.Table:
        """Which users were in which part, (user_id, part), so that a later evaluation never tests on a training user."""
        names = [np.full(len(part), name, dtype=object) for name, part in self._named()]
        users = np.concatenate([part.users for _, part in self._named()])
        return pa.table({"user_id": dataset.users.take(pa.array(users)), "part": pa.array(np.concatenate(names), pa.string())})

    def _named(self) -> list[tuple[str, Instances]]:
        return [("train", self._all_train), ("valid", self.valid), ("test", self.test)]


def _assigned(dataset: Dataset, users: np.ndarray, fitted: ProfilingModel) -> UserSplit:
    """The parts that `fitted` was made with; users it has never met are test users."""
    assert fitted.parts is not None
    rows = Lookup(fitted.parts["user_id"], "user ids").positions(dataset.users.take(pa.array(users)))
    names = np.array([*fitted.parts["part"].to_pylist(), "test"], dtype=object)[rows]
    return UserSplit(*(np.flatnonzero(names == part) for part in ("train", "valid", "test")))


def _known_classes(found: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Index of each found class among the known ones; DataError names one the model was not fitted to."""
    order = {name: index for index, name in enumerate(known)}
    strange = [name for name in found if name not in order]
    if strange:
        raise DataError(f"label {strange[0]!r} is none of the classes the model was fitted to: {', '.join(map(str, known))}")
    return np.array([order[name] for name in found])
