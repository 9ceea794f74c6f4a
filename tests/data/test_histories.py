"""Histories dealt out to buckets and put in order, against a stable sort by pandas."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from userclue.data import histories
from userclue.data.store import Dataset

Make = Callable[..., Dataset]


def log(order: str, text: bool = False) -> pd.DataFrame:
    """3,000 events of 200 users, one of whom has a third of them; times tie often."""
    random = np.random.default_rng(3)
    users = np.where(random.random(3_000) < 1 / 3, 7, random.integers(0, 200, 3_000))
    times = random.integers(-500, 500, 3_000)
    if order == "user":
        users = np.sort(users)
    if order == "time":
        times = np.sort(times)
    frame = pd.DataFrame({"user_id": users, "item_id": random.integers(0, 40, 3_000), "timestamp": times})
    if text:
        frame["user_id"] = "a user with a long name " + frame["user_id"].astype(str).str.zfill(4)
        frame["item_id"] = "item " + frame["item_id"].astype(str).str.zfill(4)
    return frame.drop(columns="timestamp") if order == "none" else frame


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("order", ["user", "time", "random", "none"])
@pytest.mark.parametrize(("at_once", "bucket", "giant"), [(7, 50, 10**9), (64, 50, 400), (500, 900, 10**9), (10**6, 10**6, 10**6)])
def test_against_pandas(make: Make, monkeypatch: pytest.MonkeyPatch, order: str, text: bool, at_once: int, bucket: int, giant: int) -> None:
    """Buckets smaller than the longest history, batches smaller than a bucket, one user left to the database, and all in one."""
    for name, value in (("_AT_ONCE", at_once), ("_BUCKET", bucket), ("_GIANT", giant)):
        monkeypatch.setattr(histories, name, value)
    frame = log(order, text)
    expected = frame.sort_values(["user_id", "timestamp"] if "timestamp" in frame else "user_id", kind="stable")
    for window in (None, 6):
        kept: Any = expected
        if window:
            place = expected.groupby("user_id").cumcount()
            kept = expected[place < expected.groupby("user_id")["item_id"].transform("size") // window * window]
        dataset = make(frame, window=window)
        assert dataset.vocabulary.ids(dataset.items).to_pylist() == kept["item_id"].tolist()
        if order == "none":
            assert dataset.times is None
        else:
            assert dataset.times is not None
            assert dataset.times.tolist() == (kept["timestamp"] * 1000).tolist()


def test_more_users_than_a_bucket_numbers(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "_MOST_USERS", 3)
    frame = log("random")
    expected = frame.sort_values(["user_id", "timestamp"], kind="stable")["item_id"].tolist()
    dataset = make(frame)
    assert dataset.vocabulary.ids(dataset.items).to_pylist() == expected


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("rows", ["rising", "nearly", "shuffled"])
def test_in_order_whatever_order_rows_come_in(rows: str, timed: bool) -> None:
    random = np.random.default_rng(0)
    row = np.sort(random.choice(10**12, 5_000, replace=False))
    user, time = random.integers(0, 2**16, 5_000).astype(np.uint16) // 300, random.integers(0, 9, 5_000)
    if rows == "nearly":
        row = row.reshape(-1, 50)[:, random.permutation(50)].ravel()
    if rows == "shuffled":
        row = random.permutation(row)
    expected = np.lexsort((row, time, user) if timed else (row, user))
    assert np.array_equal(histories.in_order(user, row, time if timed else None), expected)
