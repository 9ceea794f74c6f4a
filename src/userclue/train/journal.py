"""The rows a run logs: kept in order, shown as they come, written as JSON lines at the end."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


def _ignore(_: Any) -> None:
    return None


@dataclass(frozen=True)
class Watch:
    """How a caller follows a run: `started` gets the run before its first step, `row` each logged row."""

    started: Callable[[Any], None] = _ignore
    row: Callable[[Row], None] = _ignore


UNWATCHED = Watch()


class Journal:
    """Rows of a run; `listen` is called with each new one (a progress bar, a collapse monitor)."""

    def __init__(self, listeners: Iterable[Callable[[Row], None]] = ()) -> None:
        self.rows: list[Row] = []
        self._listeners = tuple(listeners)

    def log(self, row: Row) -> None:
        """Append a row; numbers that are not finite become null, so that the file stays JSON."""
        clean = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        self.rows.append(clean)
        for listener in self._listeners:
            listener(clean)


def json_lines(rows: Iterable[Row]) -> bytes:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
