"""Helpers of the data tests: a log as text, and a dataset made of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from userclue.data.prepare import prepare
from userclue.data.store import Dataset

HEADER = "user_id,item_id,timestamp\n"


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    """Write a log: rows below the usual header, or a whole file's bytes."""

    def write(content: str | bytes, name: str = "log.csv", header: str = HEADER) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else (header + content).encode())
        return path

    return write


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Dataset]:
    """Prepare and verify a dataset on one thread."""

    def prepared(events: Any, **options: Any) -> Dataset:
        dataset = prepare(events, tmp_path / "dataset", overwrite=True, threads=1, **options)
        dataset.verify()
        manifest = dataset.manifest
        lost = sum(manifest["events_dropped"].values()) + manifest["events_quarantined"]
        assert manifest["events_read"] == manifest["events_kept"] + lost
        return dataset

    return prepared


@pytest.fixture
def histories() -> Callable[[Dataset], dict[Any, list[Any]]]:
    """A dataset as a dict from user id to the list of item ids."""

    def of(dataset: Dataset) -> dict[Any, list[Any]]:
        sequences, vocabulary = dataset.sequences(), dataset.vocabulary
        return {user: vocabulary.ids(sequences[place]).to_pylist() for place, user in enumerate(dataset.users.to_pylist())}

    return of
