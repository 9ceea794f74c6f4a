"""A small world with three tasks: kinds of user, each walking round a ring of items of its own and taking goods of its own."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from userclue.config import EncoderConfig
from userclue.data.prepare import prepare
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.jobs.finetune import build_task, finetune_settings
from userclue.train.loop import seeded_generator

USERS, RING = 60, 5


@pytest.fixture(scope="session")
def rings(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """User u is of kind u % 3; after item k of its ring comes k + 1."""
    rng = np.random.default_rng(0)
    rows = [
        (user, f"{'abc'[user % 3]}{(start + step) % RING}", 1_700_000_000 + 7 * user + 3600 * step)
        for user, length, start in zip(range(USERS), rng.integers(4, 14, USERS), rng.integers(0, RING, USERS), strict=True)
        for step in range(length)
    ]
    log = pa.table(dict(zip(("user_id", "item_id", "timestamp"), map(pa.array, zip(*rows, strict=True)), strict=True)))
    return prepare(log, tmp_path_factory.mktemp("rings") / "data", threads=1)


@pytest.fixture(scope="session")
def like(rings: Dataset) -> UserEncoder:
    """The encoder beside which baselines stand, not trained."""
    shape = EncoderConfig.of({"dim": 16, "blocks": 1, "heads": 2, "max_len": 8, "dropout": 0.1})
    return UserEncoder.new(shape, rings.vocabulary, seeded_generator("cpu", 0))


@pytest.fixture(scope="session")
def labels() -> dict[str, Any]:
    users = list(range(USERS))
    goods = [(user, f"{'abc'[user % 3]}-{good}") for user in users for good in range(2)]
    return {
        "profiling": pa.table({"user_id": users, "label": ["abc"[user % 3] for user in users]}),
        "cold-start": pa.table({"user_id": [user for user, _ in goods], "item_id": [good for _, good in goods]}),
        "sequential": None,
    }


@pytest.fixture(scope="session")
def settings() -> Any:
    def make(**given: Any) -> Any:
        return finetune_settings(**{"steps": 20, "lr": 0.02, "batch_size": 32, **given})

    return make


@pytest.fixture(scope="session")
def task(rings: Dataset, like: UserEncoder, labels: dict[str, Any], settings: Any) -> Any:
    def make(name: str, **given: Any) -> Any:
        return build_task(name, rings, like, labels[name], None, settings(**given))

    return make
