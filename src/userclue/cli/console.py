"""How a command speaks: result on standard output (a table, or one JSON object), everything else on standard error."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from userclue.version import VERSION

PLAIN_WIDTH = 120


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False, soft_wrap=stderr)


def say(text: str) -> None:
    """One line on standard error."""
    _console(stderr=True).print(Text(text))


class Report:
    """The result of a command, filled while it runs and printed at its end."""

    def __init__(self, command: str, as_json: bool, seed: int | None) -> None:
        self.command, self.as_json, self.seed = command, as_json, seed
        self.fields: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.output: str | None = None
        self._begin = time.perf_counter()

    def emit(self) -> None:
        """Print the warnings, and the result as JSON if asked for."""
        if self.as_json:
            head = {"command": self.command, "version": VERSION, "seed": self.seed, "seconds": round(time.perf_counter() - self._begin, 3)}
            print(
                json.dumps({**head, "output": self.output, "warnings": self.warnings, **self.fields}, ensure_ascii=False, allow_nan=False)
            )
            return
        for warning in self.warnings:
            say(f"warning: {warning}")

    def show(self, *lines: str) -> None:
        """Lines of the readable result; nothing under --json."""
        if not self.as_json:
            for line in lines:
                _console(stderr=False).print(Text(line))

    def show_table(self, title: str, columns: Mapping[str, str], rows: list[list[str]]) -> None:
        """A table of the readable result; `columns` maps a heading to `left` or `right`."""
        if self.as_json:
            return
        table = Table(title=Text(title), title_justify="left", header_style="bold")
        for heading, justify in columns.items():
            table.add_column(Text(heading), justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        _console(stderr=False).print(table)


@contextmanager
def reporting(command: str, *, as_json: bool, seed: int | None = None, threads: int | None = None) -> Iterator[Report]:
    """Run a command's body: set the threads, hand it a Report, print the report at the end."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    report = Report(command, as_json, seed)
    yield report
    report.emit()
