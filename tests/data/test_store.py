import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userclue.data.store import Dataset, NpyWriter, Sequences, gather, map_npy
from userclue.errors import ArtifactError

ragged = st.lists(st.lists(st.integers(4, 99), max_size=6), max_size=8)


@given(ragged, st.integers(0, 4))
def test_views_are_what_slicing_gives(lists: list[list[int]], n: int) -> None:
    sequences = Sequences.from_lists(lists)
    assert len(sequences) == len(lists)
    assert [one.tolist() for one in sequences] == lists
    assert sequences.lengths.tolist() == [len(one) for one in lists]
    assert [one.tolist() for one in sequences.last(n)] == [one[len(one) - min(n, len(one)) :] for one in lists]
    assert [one.tolist() for one in sequences.drop_last(n)] == [one[: max(0, len(one) - n)] for one in lists]


@given(ragged, st.randoms(use_true_random=False))
def test_gather_copies_in_order(lists: list[list[int]], random: Any) -> None:
    order = list(range(len(lists))) * 2
    random.shuffle(order)
    taken = Sequences.from_lists(lists).take(np.array(order, np.int64))
    for sequences, expected in ((taken, [lists[place] for place in order]), (taken.drop_last(1), [lists[place][:-1] for place in order])):
        items, offsets = sequences.gather()
        assert items.dtype == np.int32
        assert offsets.dtype == np.int64
        assert [items[offsets[u] : offsets[u + 1]].tolist() for u in range(len(expected))] == expected


def test_gather_in_several_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userclue.data.store._GATHER_AT_ONCE", 7)
    lists = [list(range(4, 4 + n)) for n in (3, 0, 20, 1, 1, 6, 7, 8, 0)]
    items, offsets = Sequences.from_lists(lists).take(np.arange(9)[::-1]).gather()
    assert items.tolist() == [one for part in lists[::-1] for one in part]
    assert offsets[-1] == len(items)


def test_gather_keeps_the_type() -> None:
    flat, _ = gather(np.array([10**12, 5, 6]), np.array([2, 0]), np.array([3, 1]))
    assert flat.tolist() == [6, 10**12]


def test_offsets_past_two_to_the_31(tmp_path: Path) -> None:
    """A sparse file of 2^31 + 10 events: eight gigabytes in name, nothing on disk but the last page."""
    n = 2**31 + 10
    path = tmp_path / "items.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": (n,)})
        offset = file.tell()
        os.truncate(file.fileno(), offset + 4 * n)
        file.seek(offset + 4 * (n - 3))
        file.write(np.array([7, 8, 9], np.int32).tobytes())
    items = map_npy(path, np.int32, n)
    sequences = Sequences.from_offsets(items, np.array([0, n - 5, n - 2, n]))
    assert sequences.lengths.tolist() == [n - 5, 3, 2]
    assert sequences[1].tolist() == [0, 0, 7]
    assert sequences.take(np.array([2, 1])).gather()[0].tolist() == [8, 9, 0, 0, 7]
    assert sequences.last(1).gather()[0].tolist() == [0, 7, 9]


def test_total_lengths_past_two_to_the_31_do_not_wrap() -> None:
    same = np.zeros(4, np.int64)
    lengths = Sequences(np.zeros(1, np.int32), same, np.full(4, 2**30)).lengths
    assert np.cumsum(lengths)[-1] == 2**32


def test_npy_writer(tmp_path: Path) -> None:
    with NpyWriter(tmp_path / "a.npy", np.int64, 3) as writer:
        writer.append(np.array([1, 2], np.int32))
        writer.append(np.array([3]))
    assert np.load(tmp_path / "a.npy").tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="2 values fewer"), NpyWriter(tmp_path / "b.npy", np.int64, 3) as writer:
        writer.append(np.array([1]))
    with pytest.raises(ValueError, match="1 values more"), NpyWriter(tmp_path / "c.npy", np.int64, 0) as writer:
        writer.append(np.array([1]))
    with NpyWriter(tmp_path / "d.npy", np.int32, 0):
        pass
    assert len(map_npy(tmp_path / "d.npy", np.int32, 0)) == 0


@pytest.fixture
def dataset(log: Callable[..., Path], make: Callable[..., Dataset]) -> Dataset:
    return make(log("1,a,3\n2,b,4\n1,b,5\n"))


def test_open_reads_what_was_written(dataset: Dataset) -> None:
    again = Dataset.open(dataset.path)
    assert (again.n_users, again.n_items, again.n_events) == (2, 2, 3)
    assert again.items.tolist() == [5, 4, 4]
    assert again.offsets.tolist() == [0, 2, 3]
    assert again.times is not None
    assert again.times.tolist() == [3000, 5000, 4000]
    assert again.items.dtype == np.int32
    assert again.offsets.dtype == np.int64
    assert isinstance(again.items, np.memmap)
    assert not again.items.flags.writeable
    assert again.user_positions(["2", 1, 3]).tolist() == [1, 0, -1]


def edit_manifest(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "dataset format 2, this userclue reads 1"),
        ({"kind": "artifact"}, "is a userclue artifact, not a dataset"),
        ({"users": 7}, "offsets.npy: header says"),
        ({"events_kept": 10**15}, "items.npy: header says"),
        ({"users": -1}, "not a count"),
        ({"items": None}, "not a count"),
        ({"files": {}}, "does not list"),
        ({"files": 3}, "list"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(dataset: Dataset, changes: dict[str, Any], message: str) -> None:
    edit_manifest(dataset.path, **changes)
    with pytest.raises(ArtifactError, match=message):
        Dataset.open(dataset.path)


@pytest.mark.parametrize("name", ["items.npy", "times.npy", "offsets.npy", "users.parquet", "vocabulary.parquet"])
def test_a_damaged_file_is_refused(dataset: Dataset, name: str) -> None:
    path = dataset.path / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ArtifactError, match=f"{name}: has {len(whole) - 1} bytes"):
        Dataset.open(dataset.path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"SHA-256|runs 0"):
        Dataset.open(dataset.path).verify()
    path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        Dataset.open(dataset.path)


def test_an_absurd_header_is_refused_before_anything_is_mapped(dataset: Dataset) -> None:
    path = dataset.path / "items.npy"
    path.write_bytes(path.read_bytes().replace(b"(3,)", b"(9,)"))
    with pytest.raises(ArtifactError, match="header says"):
        Dataset.open(dataset.path)
    path.write_bytes(b"\x80pickle".ljust(path.stat().st_size, b"\0"))
    with pytest.raises(ArtifactError, match="header cannot be read"):
        Dataset.open(dataset.path)


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        Dataset.open(tmp_path / "none")
    with pytest.raises(ArtifactError, match="is not a userclue dataset"):
        Dataset.open(tmp_path)


def test_distinct_pieces() -> None:
    sequences = Sequences(np.arange(9, dtype=np.int32), np.array([4, 0, 4, 0, 4]), np.array([6, 3, 6, 2, 6]))
    pieces, which = sequences.distinct()
    assert len(pieces) == 3
    for place in range(5):
        assert pieces[int(which[place])].tolist() == sequences[place].tolist()
