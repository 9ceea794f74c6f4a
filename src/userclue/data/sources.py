"""The built-in data set: a year of grocery purchases (CC0), and a labelled job made from its future."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from userclue.errors import ArtifactError

FOLDER = Path(__file__).parent / "builtin"
CUT_WEEK = 45  # fixed before any result was seen; the last week whose purchases are behaviour, not future
LABEL_COLUMN = "label"
HIGH, LOW = "high spender", "low spender"
BRACKETS = ("nothing", "up to the median", "above the median")


@dataclass(frozen=True)
class Builtin:
    """The built-in data set, ready for the main job.

    Attributes:
        name: Short name, good for folders and table headings.
        description: One paragraph for a reader: what the rows are, what the label is.
        source: Who published the data.
        licence: Under which terms it ships.
        events: Behaviour up to and including week 45: `user_id` int64, `item_id` string, `timestamp` ms without a zone
            (wall time at the store); in order of time.
        items: One row an item: `item_id`, `department`, `product_category`, `private_share` (null where not known).
        labels: `user_id` int64 and `label`, one row a household of `events`, ordered by `user_id`.
    """

    name: str
    description: str
    source: str
    licence: str
    events: pa.Table
    items: pa.Table
    labels: pa.Table


def read_purchases() -> pa.Table:
    """The whole shipped log, the future included: `user_id`, `item_id`, `timestamp`, `week`, `sales_value` (dollars).

    Raises:
        ArtifactError: The shipped file is missing or damaged.
    """
    return _read("completejourney.parquet")


def read_items() -> pa.Table:
    """The shipped item table: `item_id`, `department`, `product_category`, `private_share`; one row an item.

    Raises:
        ArtifactError: The shipped file is missing or damaged.
    """
    return _read("completejourney_items.parquet")


def spending_labels(purchases: pa.Table, cut_week: int = CUT_WEEK) -> pa.Table:
    """Who will spend much: `user_id` and `label`, one row a household seen up to `cut_week`, ordered by `user_id`.

    A household is a high spender when it spends strictly more after `cut_week` than the median of these households;
    one without a later purchase spends 0. Spending is counted in whole cents, so that sums have no rounding to tie on.
    """
    known, spent = _spent_after(purchases, cut_week)
    return _labelled(known, np.where(spent > np.median(spent), HIGH, LOW))


def spending_brackets(purchases: pa.Table, cut_week: int = CUT_WEEK) -> pa.Table:
    """The same households in three brackets: nothing spent after `cut_week`, up to the median of those who spent something, more."""
    known, spent = _spent_after(purchases, cut_week)
    middle = np.median(spent[spent > 0]) if (spent > 0).any() else 0
    return _labelled(known, np.array(BRACKETS)[(spent > 0).astype(int) + (spent > middle)])


def _spent_after(purchases: pa.Table, cut_week: int) -> tuple[np.ndarray, np.ndarray]:
    """Households seen up to `cut_week`, int64 [n] rising, and the cents each spent after it."""
    weeks = purchases["week"].to_numpy()
    users = purchases["user_id"].to_numpy()
    cents = np.rint(purchases["sales_value"].to_numpy() * 100).astype(np.int64)
    known = np.unique(users[weeks <= cut_week])
    future = (weeks > cut_week) & np.isin(users, known)
    spent = np.zeros(len(known), np.int64)
    np.add.at(spent, np.searchsorted(known, users[future]), cents[future])
    return known, spent


def _labelled(users: np.ndarray, labels: np.ndarray) -> pa.Table:
    return pa.table({"user_id": pa.array(users, pa.int64()), LABEL_COLUMN: pa.array(labels.tolist(), pa.string())})


def load_builtin() -> Builtin:
    """Read the built-in data set; nothing after the cut is in its events.

    Raises:
        ArtifactError: A shipped file is missing or damaged.
    """
    purchases = read_purchases()
    behaviour = purchases.filter(pc.less_equal(purchases["week"], CUT_WEEK))
    labels = spending_labels(purchases)
    description = (
        f"Grocery purchases of {len(labels):,} households in {CUT_WEEK} weeks: who, which product type, when. "
        "The label lies in the future: does the household spend more than the median in the eight weeks after?"
    )
    return Builtin(
        name="completejourney",
        description=description,
        source="The Complete Journey by 84.51°, from the R package completejourney",
        licence="CC0 1.0",
        events=behaviour.select(["user_id", "item_id", "timestamp"]),
        items=read_items(),
        labels=labels,
    )


def _read(name: str) -> pa.Table:
    """A shipped table, its page checksums verified."""
    path = FOLDER / name
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path}: the built-in data cannot be read ({reason}); install userclue again") from None
