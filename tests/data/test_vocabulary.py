from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from userclue.data.vocabulary import FIRST_ITEM, UNK, Vocabulary
from userclue.errors import ArtifactError, DataError


def test_numbers_items_after_the_special_tokens() -> None:
    vocabulary = Vocabulary.from_ids(["b", "a"], [5, 2])
    assert len(vocabulary) == FIRST_ITEM + 2
    assert vocabulary.counts.tolist() == [0, 0, 0, 0, 5, 2]
    assert vocabulary.indices(["a", "b", "x", None]).tolist() == [5, 4, UNK, UNK]
    assert vocabulary.ids(np.array([5, 4])).to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    "ids",
    [
        [7, -3, 8],
        ["7", "-3", "8"],
        [7, "-3", 8],
        np.array([7, -3, 8]),
        np.array(["7", "-3", "8"]),
        np.array([7, "-3", 8], object),
        pa.array([7, -3, 8], pa.int16()),
        pa.chunked_array([["7"], ["-3", "8"]]),
        pa.array(["7", "-3", "8"]).dictionary_encode(),
        pd.Series([7, -3, 8]),
        pl.Series(["7", "-3", "8"]),
    ],
    ids=lambda ids: type(ids).__module__ + type(ids).__name__,
)
def test_identity_is_the_text_whatever_the_type(ids: object) -> None:
    assert Vocabulary.from_ids([7, -3]).indices(ids).tolist() == [4, 5, UNK]
    assert Vocabulary.from_ids(["7", "-3"]).indices(ids).tolist() == [4, 5, UNK]


def test_007_is_not_7() -> None:
    assert Vocabulary.from_ids([7]).indices(["007", "+7", "7 "]).tolist() == [UNK] * 3


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.uint64(), pa.string(), pa.large_string()])
def test_many_ids_take_the_vectorised_way_to_the_same_answer(kind: pa.DataType) -> None:
    vocabulary = Vocabulary.from_ids(np.arange(0, 20_000, 2))
    asked = np.arange(20_000)
    found = vocabulary.indices(pa.array(asked).cast(kind))
    assert np.array_equal(found, np.where(asked % 2 == 0, asked // 2 + FIRST_ITEM, UNK))
    assert found.dtype == np.int32


def test_uint64_is_exact() -> None:
    big = [2**64 - 1, 2**64 - 2, 2**53 + 1]
    vocabulary = Vocabulary.from_ids(np.array(big, np.uint64))
    assert vocabulary.ids(vocabulary.indices(big)).to_pylist() == big
    assert vocabulary.indices([2**53]).tolist() == [UNK]


@pytest.mark.parametrize("ids", [[1.0], np.array([1.5]), pa.array([1.0]), ["a", 1.5]])
def test_floats_are_refused(ids: object) -> None:
    with pytest.raises(DataError, match=r"floats.*cast them to integers or strings"):
        Vocabulary.from_ids([1]).indices(ids)


def test_special_tokens_have_no_id() -> None:
    with pytest.raises(ValueError, match=r"index 3 is no item: items are 4..4"):
        Vocabulary.from_ids(["a"]).ids(np.array([4, UNK]))
    with pytest.raises(ValueError, match="index 5"):
        Vocabulary.from_ids(["a"]).ids(np.array([5]))


def test_save_and_load(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_ids(["a", "é", "e\u0301"], [3, 2, 1])
    vocabulary.save(tmp_path / "vocabulary.parquet")
    assert Vocabulary.load(tmp_path / "vocabulary.parquet").table.equals(vocabulary.table)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.parquet"
    Vocabulary.from_ids(np.arange(10_000)).save(path)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        Vocabulary.load(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"item_id": ["a"], "index": [4]}), "columns are"),
        (pa.table({"item_id": ["a"], "index": [4], "count": [1]}), "column types"),
        (pa.table({"item_id": ["a"], "index": pa.array([5], pa.int32()), "count": [1]}), "indices are not 4"),
        (pa.table({"item_id": ["a", "a"], "index": pa.array([4, 5], pa.int32()), "count": [1, 1]}), "appears twice"),
        (pa.table({"item_id": [None, "a"], "index": pa.array([4, 5], pa.int32()), "count": [1, 1]}), "null"),
    ],
)
def test_what_is_no_numbering_is_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(ArtifactError, match=message):
        Vocabulary.load(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=message):
        Vocabulary(table)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        Vocabulary.load(tmp_path / "v.parquet")


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [([1, 2], [9], pa.int64()), ([1, 2], ["9"], pa.int64()), ([1, 2], ["09"], pa.string()), (["a"], [9], pa.string())],
)
def test_growing_keeps_old_indices(old: list[object], new: list[object], kind: pa.DataType) -> None:
    before = Vocabulary.from_ids(old, [1] * len(old))
    after = before.grown(new, [7])
    assert after.table["item_id"].type == kind
    assert after.indices(old).tolist() == before.indices(old).tolist()
    assert after.indices(new).tolist() == [len(before)]
    assert after.counts[-1] == 7


def test_empty() -> None:
    assert Vocabulary.from_ids(["a"]).indices([]).tolist() == []
