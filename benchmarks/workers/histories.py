"""What userclue's workers learn from: MovieLens-1M as prepared, or histories drawn from a seed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from userclue.data.prepare import prepare
from userclue.data.store import Dataset, Sequences
from userclue.data.vocabulary import FIRST_ITEM, Vocabulary


@dataclass(frozen=True)
class Histories:
    """Sequences and their vocabulary."""

    sequences: Sequences
    vocabulary: Vocabulary

    def lengths(self, max_len: int) -> dict[str, int]:
        """The floor's `Lengths` of the most recent `max_len` items and UR, as JSON."""
        return summary(self.sequences, max_len)


def summary(sequences: Sequences, max_len: int) -> dict[str, int]:
    """Users, tokens and squared tokens, UR included."""
    tokens = np.minimum(sequences.lengths, max_len) + 1
    return {"users": len(tokens), "tokens": int(tokens.sum()), "squares": int((tokens**2).sum())}


def dataset_of(config: dict[str, Any]) -> Dataset:
    """The CSV that the peers read, prepared; made once."""
    path = Path(config["work"]) / Path(config["csv"]).stem
    return Dataset.open(path) if path.exists() else prepare(config["csv"], path)


def histories_of(config: dict[str, Any]) -> Histories:
    """`config["drawn"]` = {users, items, length} draws histories of equal length, items uniformly; else MovieLens-1M."""
    drawn = config.get("drawn")
    if drawn is None:
        dataset = dataset_of(config)
        return Histories(dataset.sequences(), dataset.vocabulary)
    users, items, length = drawn["users"], drawn["items"], drawn["length"]
    flat = np.random.default_rng(0).integers(FIRST_ITEM, FIRST_ITEM + items, users * length, dtype=np.int32)
    bounds = np.arange(users + 1, dtype=np.int64) * length
    table = {
        "item_id": pa.array(np.arange(items)),
        "index": pa.array(np.arange(FIRST_ITEM, FIRST_ITEM + items), pa.int32()),
        "count": pa.array(np.bincount(flat, minlength=FIRST_ITEM + items)[FIRST_ITEM:]),
    }
    return Histories(Sequences(flat, bounds[:-1], bounds[1:]), Vocabulary(pa.table(table)))
