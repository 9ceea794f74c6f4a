"""What pre-training may see of the histories, so that a later test on their ends or on their future stays honest."""

import numpy as np

from userclue.data.splits import first_at_or_after
from userclue.data.store import Sequences
from userclue.data.times import parse_instant
from userclue.errors import UsageError


def hold_out(sequences: Sequences, n: int) -> Sequences:
    """Every history without its last `n` events; one of `n` events or fewer stays whole, as no test is made on it."""
    return Sequences(sequences.items, sequences.starts, np.where(sequences.lengths > n, sequences.ends - n, sequences.ends))


def before(sequences: Sequences, times: np.ndarray | None, until: str) -> Sequences:
    """Every history up to its last event before `until` (ISO or epoch). UsageError when the log had no times."""
    if times is None:
        raise UsageError(f"until {until}: this dataset has no times; prepare it with --time-col")
    return Sequences(sequences.items, sequences.starts, first_at_or_after(sequences, times, parse_instant(until, "until")))
