"""Vectors of many users, a piece at a time: in this process, or in several that share them out.

Pieces have the same bounds and each is made on one thread, so that how many processes made them shows in no bit.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from userclue.data.inputs import Histories
from userclue.data.store import Sequences
from userclue.errors import UsageError
from userclue.workers import Answer, Workers

ENCODE_CHUNK = 16_384
# Starting a process (importing PyTorch, opening the model) takes as long as encoding so many users.
PAYS_FROM = 100_000
WORKER = "userclue.jobs.encode_worker"


@dataclass(frozen=True, eq=False)
class Piece:
    """Consecutive users. vectors: float32 [b, D]. unknown: their events with unknown items. nothing_known: users of such events only."""

    vectors: np.ndarray
    unknown: int
    nothing_known: int

    def __len__(self) -> int:
        return len(self.vectors)


def bounds(n: int, begin: int = 0) -> list[tuple[int, int]]:
    """Of the pieces of n users; `begin` must be one of them."""
    return [(first, min(first + ENCODE_CHUNK, n)) for first in range(begin, n, ENCODE_CHUNK)]


def piece(vectors: Callable[[Sequences], np.ndarray], histories: Histories, begin: int, end: int) -> Piece:
    """The users begin…end, encoded by `vectors`."""
    sequences, missing = histories.part(begin, end)
    return Piece(vectors(sequences), int(missing.sum()), int(np.sum(missing == sequences.lengths)))


def worker_count(wanted: int | None, users: int, device: str, threads: int | None = None) -> int:
    """Processes to use: `wanted`, or if None as many as there are cores (or `threads`) and as pay for so many users.

    UsageError for more than one on a GPU, which they would only wait for in turn.
    """
    if device != "cpu":
        if wanted is not None and wanted > 1:
            raise UsageError(f"workers: {wanted} were asked for, but on {device} one process does all the work; use 1, or --device cpu")
        return 1
    if wanted is not None:
        return max(1, min(wanted, len(bounds(users))))
    return max(1, min(threads or len(os.sched_getaffinity(0)), users // PAYS_FROM))


class EncodingWorkers(Workers):
    """Processes that open the model and the histories by their paths."""

    def pieces(self, n: int, begin: int = 0) -> Iterator[Piece]:
        """The pieces of n users from `begin` on, in order."""
        for head, content in self.answers({"begin": first, "end": last} for first, last in bounds(n, begin)):
            yield Piece(np.frombuffer(content, np.float32).reshape(-1, head["dim"]), head["unknown"], head["nothing_known"])


@contextmanager
def encoding_workers(
    model: Path, model_hash: str, histories: Histories, count: int, folder: Path | None = None
) -> Iterator[EncodingWorkers]:
    """`count` processes with the model at `model`, whose weights have the hash `model_hash`.

    Histories that are no dataset are written down in `folder`, which must last as long.
    """
    if folder is None:
        assert histories.dataset is not None
        data = {"dataset": str(histories.dataset.absolute())}
    else:
        flat, offsets = histories.whole().gather()
        np.save(folder / "items.npy", flat)
        np.save(folder / "offsets.npy", offsets)
        data = {"histories": str(folder)}
    with EncodingWorkers(WORKER, {"model": str(model.absolute()), "hash": model_hash, **data}, count) as workers:
        yield workers


def answer_of(one: Piece) -> Answer:
    """What a worker sends back."""
    head: dict[str, Any] = {"dim": one.vectors.shape[1], "unknown": one.unknown, "nothing_known": one.nothing_known}
    return head, np.ascontiguousarray(one.vectors).tobytes()
