"""Turns SIGINT and SIGTERM into a flag that the loop reads between steps, so that state is saved whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether a signal has asked the run to stop; a second one ends the process at once."""

    def __init__(self) -> None:
        self.received: str | None = None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM inside the block (main thread only; elsewhere signals cannot be caught)."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def receive(number: int, frame: FrameType | None) -> None:
        del frame
        if request.received:
            raise KeyboardInterrupt
        request.received = signal.Signals(number).name

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
