"""Every error userclue raises on purpose, and the exit code each one ends a command with.

UserclueError                      1
├── UsageError                     2   wrong option, configuration or output place
├── DataError                      3   the events, labels or attributes given cannot be used
├── ArtifactError                  4   a dataset or artifact folder is damaged or does not fit
└── Interrupted                    5   stopped by a signal; the run can be resumed
"""

from collections.abc import Iterator
from contextlib import contextmanager


class UserclueError(Exception):
    """Base of the tree. The message is one line: what was found, where, and what to do."""

    exit_code = 1


class UsageError(UserclueError):
    """An option, setting or output place that cannot be used as given."""

    exit_code = 2


class DataError(UserclueError):
    """Input data that cannot be used; names file, row, column and value where they are known."""

    exit_code = 3


class ArtifactError(UserclueError):
    """A dataset or artifact folder that is damaged, of another version, or of another model."""

    exit_code = 4


class Interrupted(UserclueError):
    """A run stopped by a signal after its state was saved."""

    exit_code = 5


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise KeyboardInterrupt where one met a library midway, and the library's tidying up raised an error of its own over it."""
    try:
        yield
    except UserclueError:
        raise
    except Exception as error:
        met: BaseException | None = error
        while met is not None:
            if isinstance(met, KeyboardInterrupt):
                raise met from None
            met = met.__cause__ or (None if met.__suppress_context__ else met.__context__)
        raise
