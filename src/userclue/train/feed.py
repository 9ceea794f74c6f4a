"""Batches made ahead of the step that needs them, in a thread, for a GPU that must not wait for them."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import torch

from userclue.data.batches import Batch

AHEAD = 3


def ahead(batches: Iterator[Batch], finish: Callable[[Batch], Batch]) -> Generator[Batch]:
    """The same batches in the same order, `finish` applied; a thread makes up to AHEAD of them beforehand.

    What goes wrong in the thread is raised here, in its turn. Closing the iterator ends the thread.
    """

    def make() -> Batch | None:
        batch = next(batches, None)
        return None if batch is None else finish(batch)

    with ThreadPoolExecutor(1, thread_name_prefix="userclue-feed") as thread:
        waiting = deque(thread.submit(make) for _ in range(AHEAD))
        try:
            while (batch := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(make))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


def feed(batches: Iterator[Batch], device: torch.device) -> Generator[Batch]:
    """The batches of an epoch on `device`.

    For a GPU they are made ahead, in page-locked memory from which they are copied while it computes. On a CPU the thread would only
    take the step's own cores: a batch takes a hundredth of the time of its step.
    """
    if device.type != "cuda":
        yield from batches
        return
    with closing(ahead(batches, Batch.pinned)) as made:
        for batch in made:
            yield batch.to(device)
