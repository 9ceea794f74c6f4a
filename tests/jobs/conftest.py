"""A small shop: three kinds of customer, each buying its way round a ring of items of its own; and a model of it, saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from userclue.data.prepare import prepare
from userclue.data.store import Dataset
from userclue.jobs.pretrain import pretrain

SMALL = {"dim": 16, "blocks": 1, "heads": 2, "max_len": 8, "dropout": 0.1, "batch_size": 32}


def shop_log(users: int = 90, seed: int = 0) -> pa.Table:
    """Customer u is of kind u % 3, and mostly buys item k + 1 of its ring after item k."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        place = int(rng.integers(0, 6))
        for step in range(int(rng.integers(5, 12))):
            place = (place + 1) % 6 if rng.random() < 0.7 else int(rng.integers(0, 6))
            kind = user % 3 if rng.random() < 0.6 else int(rng.integers(0, 3))
            rows.append((user, f"{'abc'[kind]}{place}", 1_700_000_000 + 7 * user + 3600 * step))
    return pa.table(dict(zip(("user_id", "item_id", "timestamp"), map(pa.array, zip(*rows, strict=True)), strict=True)))


@pytest.fixture(scope="session")
def make_log() -> Callable[..., pa.Table]:
    return shop_log


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Settings of a small encoder."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(shop_log(), tmp_path_factory.mktemp("shop") / "data", threads=1)


@pytest.fixture(scope="session")
def model(shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pre-trained model; tests only read it."""
    folder = tmp_path_factory.mktemp("model") / "shop"
    pretrain(shop, folder, epochs=2, **SMALL)
    return folder


@pytest.fixture(scope="session")
def labels() -> pa.Table:
    return pa.table({"user_id": list(range(90)), "label": ["abc"[user % 3] for user in range(90)]})
