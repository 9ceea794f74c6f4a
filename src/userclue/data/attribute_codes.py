"""Item attributes as arrays that a network can read. The type of a column says what it is, its name never does.

| column type                          | kind                                                                  |
|--------------------------------------|-----------------------------------------------------------------------|
| text, whole numbers, true or false   | categories: one value an item, or several in a text with separators   |
| lists of these                       | categories, any number an item                                        |
| floats, decimals                     | a quantity                                                            |
| lists of floats                      | a content vector, of the same length for every item                   |

Values of a category are numbered in the order in which the vocabulary meets them, so a vocabulary that grows keeps the numbers it had.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from userclue.data.columns import to_arrow, to_numpy
from userclue.data.lookup import texts
from userclue.data.vocabulary import COLUMNS, FIRST_ITEM, Vocabulary
from userclue.errors import DataError, UsageError


@dataclass(frozen=True, eq=False)
class Categories:
    """The values of each index: codes[offsets[i]:offsets[i+1]], each once, places in `values`; special tokens have none."""

    offsets: np.ndarray  # int64 [V + 1]
    codes: np.ndarray  # int64 [number of values of all items]
    values: pa.Array  # [K], distinct texts


@dataclass(frozen=True, eq=False)
class Measures:
    """C numbers for each index, zeros where it has none (special tokens, nulls)."""

    values: np.ndarray  # float32 [V, C]
    present: np.ndarray  # bool [V]


def code_attribute(vocabulary: Vocabulary, name: str, separator: str = "|") -> Categories | Measures:
    """The column `name` of the vocabulary as arrays; text is split at `separator` unless that is empty.

    Raises UsageError when there is no such column, DataError when it is of a type that is no attribute, has no value at all, an
    infinite number, or vectors of different lengths.
    """
    known = [column for column in vocabulary.table.column_names if column not in COLUMNS]
    if name not in known:
        has = f"it has {', '.join(known)}" if known else "it has none; give some to prepare with items (--items)"
        raise UsageError(f'attributes: the vocabulary has no item attribute "{name}"; {has}')
    column = vocabulary.table[name]
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if column.null_count == len(column):
        raise DataError(f'item attribute "{name}": has no value for any item; leave it out of the attributes')
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
    if _is_list(column.type):
        column = pc.cast(column, pa.large_list(column.type.value_type))
        if pa.types.is_floating(column.type.value_type):
            return _vectors(vocabulary, column, name)
        return _categories(column, name)
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        numbers = _floats(column)
        return _measures(vocabulary, numbers[:, None], ~np.isnan(numbers), name)
    if _is_text(column.type) and separator:
        column = pc.split_pattern(pc.cast(column, pa.large_string()), separator)
        return _categories(pc.cast(column, pa.large_list(pa.large_string())), name)
    one_each = pa.LargeListArray.from_arrays(to_arrow(np.arange(len(column) + 1)), column)
    return _categories(one_each, name)


def category_columns(vocabulary: Vocabulary, separator: str = "|") -> list[str]:
    """The columns of categories that say more of an item than its id does: of which one value at least is shared by two items."""
    names = []
    for name in vocabulary.table.column_names:
        if name in COLUMNS:
            continue
        try:
            found = code_attribute(vocabulary, name, separator)
        except DataError:  # without any value, or of a type that is no attribute
            continue
        if isinstance(found, Categories) and len(found.codes) > len(found.values):
            names.append(name)
    return names


def categories_of(vocabulary: Vocabulary, names: Sequence[str], separator: str = "|") -> Categories:
    """The values of several columns of categories as one set, column after column. Raises UsageError where one is a quantity or vector."""
    parts = []
    for name in names:
        part = code_attribute(vocabulary, name, separator)
        if isinstance(part, Measures):
            raise UsageError(f'item attribute "{name}" has numbers, not categories; it cannot be predicted, leave it out')
        parts.append(part)
    shifts = np.cumsum([0] + [len(part.values) for part in parts])
    owners = np.concatenate([np.repeat(np.arange(len(vocabulary)), np.diff(part.offsets)) for part in parts])
    codes = np.concatenate([part.codes + shift for part, shift in zip(parts, shifts[:-1], strict=True)])
    in_order = codes[np.argsort(owners, kind="stable")]
    return Categories(_offsets(owners, len(vocabulary)), in_order, pa.concat_arrays([part.values for part in parts]))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _categories(column: pa.LargeListArray, name: str) -> Categories:
    """From a list an item; values without text and nulls are left out."""
    counts = to_numpy(pc.fill_null(pc.list_value_length(column), 0))
    owners, values = np.repeat(np.arange(len(column)), counts), column.flatten()
    if pa.types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    if _is_text(values.type):
        values = pc.utf8_trim_whitespace(pc.cast(values, pa.large_string()))
        said = pc.fill_null(pc.not_equal(values, ""), False)
    elif pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        said = pc.is_valid(values)
    else:
        raise DataError(
            f'item attribute "{name}": is of type {values.type}, which is neither text, whole number, float, truth value nor a list of '
            "these; change its type before prepare, or leave it out of the attributes"
        )
    owners, encoded = owners[_truths(said)], values.filter(said).dictionary_encode()
    if not len(owners):
        raise DataError(f'item attribute "{name}": has no value for any item; leave it out of the attributes')
    codes = to_numpy(encoded.indices).astype(np.int64)
    pairs = np.unique(owners * len(encoded.dictionary) + codes)
    owners, codes = np.divmod(pairs, len(encoded.dictionary))
    return Categories(_offsets(owners + FIRST_ITEM, len(column) + FIRST_ITEM), codes, texts(encoded.dictionary))


def _truths(column: pa.Array) -> np.ndarray:
    return to_numpy(pc.cast(column, pa.uint8())).astype(bool)


def _floats(column: pa.Array) -> np.ndarray:
    """float64, NaN where there is none."""
    return to_numpy(pc.fill_null(pc.cast(column, pa.float64()), float("nan")))


def _offsets(owners: np.ndarray, size: int) -> np.ndarray:
    """int64 [size + 1] from whose each value is."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(owners, minlength=size), dtype=np.int64)])


def _vectors(vocabulary: Vocabulary, column: pa.LargeListArray, name: str) -> Measures:
    lengths = pc.list_value_length(column)
    present = _truths(pc.is_valid(column))
    width = lengths.drop_null()[0].as_py()
    odd = np.flatnonzero(present & (to_numpy(pc.fill_null(lengths, width)) != width))
    if len(odd) or width == 0:
        place = int(odd[0]) if len(odd) else int(np.flatnonzero(present)[0])
        item = vocabulary.table["item_id"][place].as_py()
        raise DataError(
            f'item attribute "{name}": item {item!r} has a vector of {lengths[place].as_py()} numbers, the first item has {width}; '
            "give every item one of the same length, or null"
        )
    flat = _floats(column.flatten()).reshape(-1, width)
    numbers = np.full((len(column), width), np.nan)
    numbers[present] = flat
    return _measures(vocabulary, numbers, np.asarray(~np.isnan(numbers).any(axis=1)), name)


def _measures(vocabulary: Vocabulary, numbers: np.ndarray, present: np.ndarray, name: str) -> Measures:
    """numbers float64 [items, C]; those that are not `present` become zeros."""
    values = np.zeros((len(vocabulary), numbers.shape[1]), np.float32)
    with np.errstate(over="ignore"):
        values[FIRST_ITEM:][present] = numbers[present]
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values).all(1))[0]) - FIRST_ITEM
        item = vocabulary.table["item_id"][place].as_py()
        raise DataError(f'item attribute "{name}": item {item!r} has an infinite number; make it finite or null')
    if not present.any():
        raise DataError(f'item attribute "{name}": has no value for any item; leave it out of the attributes')
    return Measures(values, np.concatenate([np.zeros(FIRST_ITEM, bool), present]))
