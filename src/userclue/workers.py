"""Processes that share out work: each is told its task in JSON and answers with bytes. No object crosses between them, none is pickled.

    parent ── {"task": …} ──────→ worker      one line, at the start
    parent ←─ {"ready": true} ──
    parent ── {"begin": 0, …} ──→             one line a request
    parent ←─ {"bytes": 4096, …} ─            one line, then so many bytes

A worker ends when its input does, so none outlives a parent that was killed.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self

from userclue.errors import Interrupted, UserclueError

Answer = tuple[dict[str, Any], bytes]
ERRORS = {kind.__name__: kind for kind in UserclueError.__subclasses__()}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Workers:
    """`count` processes that run the module `module`, which must call `serve`; each on one thread.

    Entering waits until all are ready, which takes `start_seconds`; leaving ends them.
    """

    def __init__(self, module: str, task: dict[str, Any], count: int) -> None:
        self._module, self._task, self._count = module, task, count
        self._workers: list[_Worker] = []
        self.start_seconds = 0.0

    def __enter__(self) -> Self:
        begin = time.perf_counter()
        try:
            for _ in range(self._count):
                self._workers.append(_Worker(self._module, self._task))
            for worker in self._workers:
                worker.receive()
        except BaseException:
            self._end()
            raise
        self.start_seconds = time.perf_counter() - begin
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for worker in self._workers:
            worker.end()

    def answers(self, requests: Iterable[dict[str, Any]]) -> Iterator[Answer]:
        """The answer to each request, in their order; little more than one a worker is under way at any time.

        Raises what a worker raised, if it is an error of ours, and Interrupted when one was ended by a signal.
        """
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            idle.put(worker)

        def ask(request: dict[str, Any]) -> Answer:
            worker = idle.get()
            try:
                return worker.ask(request)
            finally:
                idle.put(worker)

        under_way: deque[Future[Answer]] = deque()
        with ThreadPoolExecutor(self._count) as threads:
            try:
                for request in requests:
                    under_way.append(threads.submit(ask, request))
                    if len(under_way) > 2 * self._count:
                        yield under_way.popleft().result()
                while under_way:
                    yield under_way.popleft().result()
            except BaseException:
                # Without the processes no thread waits any longer, and what is not begun never will be.
                for worker in self._workers:
                    worker.kill()
                threads.shutdown(cancel_futures=True)
                raise


class _Worker:
    def __init__(self, module: str, task: dict[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed in `end`
        # A process group of its own: Ctrl-C is the parent's to answer. -P: the working folder holds no modules of ours.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            process_group=0,
            env={**os.environ, **ONE_THREAD},
        )
        self._send(task)

    def ask(self, request: dict[str, Any]) -> Answer:
        self._send(request)
        return self.receive()

    def _send(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(content).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._lost() from None

    def receive(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._lost()
        head = json.loads(line)
        if "error" in head:
            raise ERRORS[head["error"]](head["message"])
        content = self._process.stdout.read(head.get("bytes", 0))
        if len(content) < head.get("bytes", 0):
            raise self._lost()
        return head, content

    def _lost(self) -> Exception:
        code = self._process.wait()
        if code < 0:
            return Interrupted(f"a worker process was ended by {signal.Signals(-code).name}; if memory is short, use fewer workers")
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        return RuntimeError(f"a worker process ended with code {code}: {last}")

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with suppress(BrokenPipeError):  # a request that nobody reads any more
                stream.close()


def serve(begin: Callable[[dict[str, Any]], Callable[[dict[str, Any]], Answer]]) -> None:
    """The worker's side: `begin` takes the task and returns the function that answers requests; runs until the input ends."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    lines = sys.stdin.buffer
    try:
        answer = begin(json.loads(lines.readline()))
        _reply(channel, {"ready": True}, b"")
        for line in lines:
            _reply(channel, *answer(json.loads(line)))
    except UserclueError as error:
        _reply(channel, {"error": type(error).__name__, "message": str(error)}, b"")


def _reply(channel: Any, head: dict[str, Any], content: bytes) -> None:
    channel.write(json.dumps({**head, "bytes": len(content)}).encode() + b"\n")
    channel.write(content)
    channel.flush()
