"""What `prepare` needs of a log that was read, checked and coded, wherever its events lie: in the database, or in memory."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from userclue.data.histories import Written
from userclue.data.log import Facts

_RULES = ("until", "duplicates", "min_user_events", "min_item_users", "window")


@dataclass
class Tally:
    """What became of the rows read. longest: events of the longest history before thin users went."""

    read: int
    quarantined: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_RULES, 0))
    longest: int = 0


class Coded(Protocol):
    """A log whose users and items have codes in the order of their ids."""

    tally: Tally
    lengths: np.ndarray  # int64 [U]: events of each user, 0 for those gone

    @property
    def facts(self) -> Facts:
        """What the log calls its columns, and how its times are written."""

    def user_ids(self) -> pa.Array:
        """The user of each code, [U]: int64, uint64 or string."""

    def item_ids(self) -> pa.Array:
        """The item of each code, [I]: int64, uint64 or string."""

    def write(self, folder: Path, spill: Path, kept: np.ndarray, now_ms: int) -> Written:
        """Write the first `kept` (int64 [U]) events of each user, as `histories.write_pieces` does."""
