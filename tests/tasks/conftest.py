"""A small world in which both tasks are easy: three kinds of user, each walking round a ring of items of its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from userclue.data.prepare import prepare
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.jobs.finetune import finetune
from userclue.jobs.pretrain import pretrain
from userclue.tasks.profiling import ProfilingModel
from userclue.tasks.sequential import SequentialModel

KINDS, RING = "abc", 6
SHAPE = {"dim": 16, "blocks": 1, "heads": 2, "max_len": 8, "dropout": 0.1, "batch_size": 32}
FAST = {"lr": 0.02, "batch_size": 32, "baselines": False}


def ring_log(first: int = 0, users: int = 90, shortest: int = 5, seed: int = 0) -> pa.Table:
    """User u is of kind u % 3; after item k of its ring comes k + 1."""
    rng = np.random.default_rng([seed, first])
    rows = [
        (user, f"{KINDS[user % 3]}{(start + step) % RING}", 1_700_000_000 + 7 * user + 3600 * step)
        for user, length, start in zip(
            range(first, first + users), rng.integers(shortest, 12, users), rng.integers(0, RING, users), strict=True
        )
        for step in range(length)
    ]
    return pa.table(dict(zip(("user_id", "item_id", "timestamp"), map(pa.array, zip(*rows, strict=True)), strict=True)))


def kind_labels(users: range) -> pa.Table:
    return pa.table({"user_id": list(users), "label": [KINDS[user % 3] for user in users]})


@pytest.fixture(scope="session")
def make_log() -> Callable[..., pa.Table]:
    return ring_log


@pytest.fixture(scope="session")
def make_labels() -> Callable[[range], pa.Table]:
    return kind_labels


@pytest.fixture(scope="session")
def rings(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(ring_log(), tmp_path_factory.mktemp("rings") / "data", threads=1)


@pytest.fixture(scope="session")
def labels() -> pa.Table:
    return kind_labels(range(90))


@pytest.fixture(scope="session")
def encoder(rings: Dataset) -> UserEncoder:
    return pretrain(rings, epochs=1, **SHAPE)


@pytest.fixture(scope="session")
def other_encoder(rings: Dataset) -> UserEncoder:
    """Of the same shape and vocabulary, and other weights."""
    return pretrain(rings, epochs=1, seed=5, **SHAPE)


@pytest.fixture(scope="session")
def fit_profile(encoder: UserEncoder, rings: Dataset, labels: pa.Table) -> Callable[..., ProfilingModel]:
    def fit(pretrained: UserEncoder = encoder, data: Dataset = rings, **settings: Any) -> ProfilingModel:
        chosen: dict[str, Any] = {"labels": labels, "epochs": 6, **FAST, **settings}
        model = finetune(pretrained, data, task="profiling", **chosen)
        assert isinstance(model, ProfilingModel)
        return model

    return fit


@pytest.fixture(scope="session")
def fit_next(encoder: UserEncoder, rings: Dataset) -> Callable[..., SequentialModel]:
    def fit(pretrained: UserEncoder = encoder, data: Dataset = rings, **settings: Any) -> SequentialModel:
        chosen: dict[str, Any] = {"epochs": 12, **FAST, **settings}
        model = finetune(pretrained, data, task="sequential", **chosen)
        assert isinstance(model, SequentialModel)
        return model

    return fit


@pytest.fixture(scope="session")
def profile(fit_profile: Callable[..., ProfilingModel]) -> ProfilingModel:
    return fit_profile()


@pytest.fixture(scope="session")
def next_item(fit_next: Callable[..., SequentialModel]) -> SequentialModel:
    return fit_next()
