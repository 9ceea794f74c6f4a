"""The data of the measurements: MovieLens-1M as one CSV that every system reads, and logs drawn from a seed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from pyarrow import compute

from userclue.data.public import PUBLIC

START = 1_000_000_000  # seconds; the first event's time
CHUNK = 1_000_000
EVENTS_A_USER, GENERATED_ITEMS = 50, 20_000


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A name beside `path` that becomes it when the block ends well, so that a killed run leaves no half file to be reused."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.unlink(missing_ok=True)
    yield partial
    partial.rename(path)


def ml_1m(data: Path, work: Path) -> Path:
    """The log as `user_id,item_id,timestamp`, grouped by user, oldest first, a second between events; made once."""
    path = work / "ml-1m.csv"
    if not path.exists():
        events = PUBLIC["ml-1m"].read(data).events
        times = pa.array(np.arange(START, START + events.num_rows))
        with aside(path) as partial:
            pc.write_csv(events.append_column("timestamp", times), partial, pc.WriteOptions(quoting_style="none"))
    return path


def generated(events: int, work: Path, text: bool = False) -> Path:
    """A log of `events` in order of time, users mixed: 50 events a user on average, 20,000 items of falling popularity; made once.

    Ids are integers, or with `text` words such as user-0000123 and item-00042, as most real logs have them.
    """
    path = work / f"events-{events}{'-text' if text else ''}.csv"
    if not path.exists():
        generator = np.random.default_rng(events)
        users = max(events // EVENTS_A_USER, 1)
        weights = 1.0 / np.arange(1, GENERATED_ITEMS + 1)
        shares = np.cumsum(weights / weights.sum())
        kind = pa.string() if text else pa.int64()
        schema = pa.schema([("user_id", kind), ("item_id", kind), ("timestamp", pa.int64())])
        with aside(path) as partial, pc.CSVWriter(partial, schema, write_options=pc.WriteOptions(quoting_style="needed")) as writer:
            for begin in range(0, events, CHUNK):
                n = min(CHUNK, events - begin)
                items = np.minimum(np.searchsorted(shares, generator.random(n)), GENERATED_ITEMS - 1)
                who, what = pa.array(generator.integers(0, users, n)), pa.array(items)
                if text:
                    who, what = _words(who, "user-", 7), _words(what, "item-", 5)
                times = pa.array(START + np.arange(begin, begin + n))
                writer.write_table(pa.table([who, what, times], schema=schema))
    return path


def _words(numbers: pa.Array, prefix: str, digits: int) -> pa.Array:
    padded = compute.utf8_lpad(numbers.cast(pa.string()), digits, "0")
    return compute.binary_join_element_wise(prefix, padded, "")
