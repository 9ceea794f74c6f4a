"""Columns of attributes to arrays: the kind follows from the type, numbers keep their places when a vocabulary grows."""

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from userclue.data.attribute_codes import Categories, Measures, categories_of, code_attribute
from userclue.data.attributes import grown_with, with_attributes
from userclue.data.vocabulary import FIRST_ITEM, Vocabulary
from userclue.errors import DataError, UsageError

IDS = ["a", "b", "c", "d"]


def described(ids=IDS, **columns):
    table = Vocabulary.from_ids(ids).table
    for name, column in columns.items():
        table = table.append_column(name, column if isinstance(column, pa.Array) else pa.array(column))
    return Vocabulary(table)


def lists(found):
    """Values of every index, special tokens first."""
    pieces = np.split(found.codes, found.offsets[1:-1])
    texts = found.values.to_pylist()
    return [[texts[code] for code in piece] for piece in pieces]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array(["x|y", " y ", None, "z||x"]), [["x", "y"], ["y"], [], ["x", "z"]]),
        (pa.array(["u", "v", None, "u"]).dictionary_encode(), [["u"], ["v"], [], ["u"]]),
        (pa.array([3, None, 1, 3]), [["3"], [], ["1"], ["3"]]),
        (pa.array([3, None, 1, 3], pa.uint8()), [["3"], [], ["1"], ["3"]]),
        (pa.array([True, None, False, True]), [["true"], [], ["false"], ["true"]]),
        (pa.array([["p", "q", "p"], None, [], ["q", None, ""]]), [["p", "q"], [], [], ["q"]]),
        (pa.array([["p|q"], ["p"], None, []]), [["p|q"], ["p"], [], []]),
        (pa.array([[1, 2], [2], None, [3]], pa.large_list(pa.int32())), [["1", "2"], ["2"], [], ["3"]]),
        (pa.array([["k", "l"], None, ["l", "k"], ["m", "m"]], pa.list_(pa.string(), 2)), [["k", "l"], [], ["k", "l"], ["m"]]),
    ],
    ids=lambda given: str(given.type) if isinstance(given, pa.Array) else "",
)
def test_categories(column, values):
    found = code_attribute(described(x=column), "x")
    assert isinstance(found, Categories)
    assert lists(found) == [[]] * FIRST_ITEM + values
    assert found.codes.dtype == found.offsets.dtype == np.int64


def test_text_is_split_where_the_separator_says():
    vocabulary = described(x=["x|y", "y;x", "x", None])
    assert lists(code_attribute(vocabulary, "x", ";"))[FIRST_ITEM:] == [["x|y"], ["y", "x"], ["x"], []]
    assert lists(code_attribute(vocabulary, "x", ""))[FIRST_ITEM:] == [["x|y"], ["y;x"], ["x"], []]


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.decimal128(8, 2)])
def test_quantities(kind):
    numbers = [1.5, None, 4.0, None]
    found = code_attribute(described(x=pa.array(numbers, pa.float64()).cast(kind)), "x")
    assert isinstance(found, Measures)
    assert found.values[FIRST_ITEM:, 0].tolist() == [1.5, 0, 4, 0]
    assert found.present.tolist() == [False] * FIRST_ITEM + [True, False, True, False]
    assert found.values.dtype == np.float32


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 2), pa.list_(pa.float64()), pa.large_list(pa.float16())])
def test_content_vectors(kind):
    vectors = [[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0]]
    found = code_attribute(described(x=pa.array(vectors, pa.list_(pa.float64())).cast(kind)), "x")
    assert found.values[FIRST_ITEM:].tolist() == [[1, 2], [0, 0], [3, 4], [5, 6]]
    assert found.present[FIRST_ITEM:].tolist() == [True, False, True, True]


def test_a_number_that_is_none_is_missing():
    found = code_attribute(described(x=[[1.0, 2.0], [None, 1.0], [float("nan"), 1.0], [2.0, 1.0]]), "x")
    assert found.present[FIRST_ITEM:].tolist() == [True, False, False, True]
    assert np.isfinite(found.values).all()


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        ([[1.0, 2.0], [3.0], None, None], DataError, "item attribute \"x\": item 'b' has a vector of 1 numbers, the first item has 2"),
        ([None, 1.0, float("inf"), 2.0], DataError, "item 'c' has an infinite number; make it finite or null"),
        ([1.0, 1e300, 0.0, 2.0], DataError, "item 'b' has an infinite number"),
        (pa.array([1, 2, 3, 4]).cast(pa.timestamp("s")), DataError, r'item attribute "x": is of type timestamp\[s\], which is neither'),
        (pa.nulls(4, pa.string()), DataError, "has no value for any item; leave it out"),
        ([" ", None, "|", ""], DataError, "has no value for any item; leave it out"),
        ([float("nan")] * 4, DataError, "has no value for any item; leave it out"),
        ([[], None, None, []], DataError, "has no value for any item; leave it out|neither"),
    ],
)
def test_what_is_no_attribute_is_refused(column, error, message):
    with pytest.raises(error, match=message):
        code_attribute(described(x=column), "x")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match='attributes: the vocabulary has no item attribute "brnd"; it has brand, size'):
        code_attribute(described(brand=list("aabb"), size=list("wxyz")), "brnd")
    for name in ("brand", "count", "item_id"):
        with pytest.raises(UsageError, match="it has none; give some to prepare with items"):
            code_attribute(described(), name)


def test_several_columns_are_one_set():
    found = categories_of(described(x=["p|q", None, "p", "r"], y=[["p"], ["s", "t"], None, ["t"]]), ["x", "y"])
    assert found.values.to_pylist() == ["p", "q", "r", "p", "s", "t"]  # a value of one column is another than that of the other
    pieces = [piece.tolist() for piece in np.split(found.codes, found.offsets[1:-1])][FIRST_ITEM:]
    assert pieces == [[0, 1, 3], [4, 5], [0], [2, 5]]
    with pytest.raises(UsageError, match='"z" has numbers, not categories'):
        categories_of(described(x=list("aabb"), z=[1.0, 2.0, 3.0, 4.0]), ["x", "z"])


def test_growing_keeps_numbers_and_values():
    old = described(x=[["p"], ["q", "r"], None, ["r"]], p=[1.0, None, 3.0, 4.0])
    new = pl.DataFrame({"item_id": ["e", "b", "f"], "x": [["s", "p"], ["no"], None], "p": [7, 8, 9], "other": [1, 2, 3]})
    grown = grown_with(old, new)
    assert grown.table.column_names == old.table.column_names
    assert grown.table.slice(0, 4).equals(old.table)  # of "b", which was known, nothing is taken over
    assert grown.table.select(["item_id", "x", "p"]).slice(4).to_pylist() == [
        {"item_id": "e", "x": ["s", "p"], "p": 7.0},
        {"item_id": "f", "x": None, "p": 9.0},
    ]
    before, after = (code_attribute(one, "x") for one in (old, grown))
    assert after.values.to_pylist()[: len(before.values)] == before.values.to_pylist()
    assert after.codes[: len(before.codes)].tolist() == before.codes.tolist()


def test_growing_by_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match='item attribute "p": is of type string in the new table and double in the vocabulary'):
        grown_with(described(p=[1.0, 2.0, 3.0, 4.0]), pl.DataFrame({"item_id": ["e"], "p": ["dear"]}))
    with pytest.raises(DataError, match="item 'e' has several rows"):
        grown_with(described(p=[1.0, 2.0, 3.0, 4.0]), pl.DataFrame({"item_id": ["e", "e"], "p": [1.0, 2.0]}))


def test_a_second_table_leaves_items_without_a_row_as_they_are():
    with duckdb.connect() as connection:
        old = described(x=["1", "2", None, "4"])
        new, without = with_attributes(connection, old, pl.DataFrame({"item_id": ["b", "d"], "x": ["9", None]}), "item_id")
        assert new.table["x"].to_pylist() == ["1", "9", None, None]
        assert without == 2
        other, _ = with_attributes(connection, old, pl.DataFrame({"item_id": ["b"], "x": [2.5]}), "item_id")
        assert other.table["x"].to_pylist() == [None, 2.5, None, None]
