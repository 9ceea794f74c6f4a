"""Progress of a training run on standard error: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from userclue.cli.console import say

SECONDS_BETWEEN_LINES = 5.0


class TrainingProgress:
    """Listens to the logged rows of a run. `started` must be called with the run before its first step."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.total: int | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def started(self, run: Any) -> None:
        """Take the number of steps from the run."""
        self.total = run.total_steps
        if self._bar is not None:
            self._task = self._bar.add_task(self.what, total=self.total, completed=run.progress.step, state="")

    def __call__(self, row: dict[str, Any]) -> None:
        """Show a logged row."""
        parts = [f"step {row['step']}" + (f"/{self.total}" if self.total else "")]
        parts += [f"{label} {row[key]:{form}}" for key, label, form in _SHOWN if row.get(key) is not None]
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=row["step"], state=" · ".join(parts))
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or row["step"] in (1, self.total) or "valid_loss" in row:
            self._last_line = time.monotonic()
            say(f"{self.what}: {', '.join(parts)}")


_SHOWN = (
    ("loss", "loss", ".4f"),
    ("valid_loss", "validation loss", ".4f"),
    ("std_sqrt_d", "std×√D", ".3f"),
    ("effective_rank", "rank", ".1f"),
    ("users_per_second", "users/s", ",.0f"),
)
