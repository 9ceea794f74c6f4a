"""Which index each item of a log gets: anew by popularity, or by a vocabulary that exists already."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from userclue.data.columns import to_arrow
from userclue.data.vocabulary import FIRST_ITEM, UNK, Vocabulary


@dataclass(frozen=True, eq=False)
class Numbering:
    """vocabulary; index_of_code int32 [I]: the index of each item code of the log; events and items that became UNK."""

    vocabulary: Vocabulary
    index_of_code: np.ndarray
    unknown_events: int = 0
    unknown_items: int = 0


def number_anew(ids: pa.Array, counts: np.ndarray) -> Numbering:
    """Number items by falling count, then by id. ids: the item of each code, rising. counts: int64 [I]; items without events drop out."""
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    index_of_code = np.full(len(counts), UNK, np.int32)
    index_of_code[order] = np.arange(FIRST_ITEM, FIRST_ITEM + len(order), dtype=np.int32)
    return Numbering(Vocabulary.from_ids(ids.take(to_arrow(order)), counts[order]), index_of_code)


def number_by(old: Vocabulary, ids: pa.Array, counts: np.ndarray, grow: bool) -> Numbering:
    """Keep the indices of `old`; unknown items become UNK, or with `grow` follow the old ones by falling count, then by id.

    The counts of the new vocabulary are this log's; attributes of the old items stay.
    """
    index_of_code = old.indices(ids)
    unknown = (index_of_code == UNK) & (counts > 0)
    vocabulary = old
    if grow and unknown.any():
        new = np.flatnonzero(unknown)
        new = new[np.argsort(-counts[new], kind="stable")]
        vocabulary = old.grown(ids.take(to_arrow(new)))
        index_of_code[new] = np.arange(len(old), len(vocabulary), dtype=np.int32)
        unknown = np.zeros_like(unknown)
    totals = np.zeros(len(vocabulary), np.int64)
    np.add.at(totals, index_of_code, counts)
    table = vocabulary.table.set_column(2, "count", to_arrow(totals[FIRST_ITEM:]))
    return Numbering(Vocabulary(table), index_of_code, int(counts[unknown].sum()), int(unknown.sum()))
