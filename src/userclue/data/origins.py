"""From the place of a row in the loaded table back to the file and line it came from."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Part:
    """One file or frame as it was loaded: its name, rows that were accepted, and lines that were not.

    first: number of the first data line or row (2 after a CSV header). skipped: int64, sorted, the numbers of lines between
    that gave no row (refused or blank). unit: `line` for text files, `row` for tables, `record` where quoted fields span lines.
    """

    name: str
    rows: int
    first: int = 1
    unit: str = "row"
    skipped: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """int64 line numbers of accepted rows counted from 0."""
        # The skipped line s has s - first - (skipped before it) accepted rows before it.
        before = self.skipped - self.first - np.arange(len(self.skipped))
        return np.asarray(rows + self.first + np.searchsorted(before, rows, side="right"))


@dataclass(frozen=True, eq=False)
class Origins:
    """The parts of a table, in order."""

    parts: list[Part]

    @property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0] + [part.rows for part in self.parts], dtype=np.int64)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(part, number in it), int64 each, of rows of the table counted from 0."""
        rows = np.asarray(rows, np.int64)
        starts = self._starts
        which = np.searchsorted(starts, rows, side="right") - 1
        numbers = np.zeros(len(rows), np.int64)
        for part in np.unique(which):
            here = which == part
            numbers[here] = self.parts[part].numbers(rows[here] - starts[part])
        return which, numbers

    def place(self, row: int) -> str:
        """Where a row of the table came from, as in `events.csv line 17`."""
        which, number = self.locate(np.array([row]))
        return self.named(int(which[0]), int(number[0]))

    def named(self, part: int, number: int) -> str:
        """A part's name and a number in it, in words."""
        return f"{self.parts[part].name} {self.parts[part].unit} {number}"
