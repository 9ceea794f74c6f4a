"""Runs the systems of a case in turn, A B C A B C, and hands back tidy rows."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from benchmarks.environments import ROOT
from benchmarks.plan import Case, System

Row = dict[str, Any]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS")


class WorkerFailed(Exception):
    """A worker ended, or did not answer in time; the message is the last thing it said."""


class Worker:
    """A process that measures one system; see workers/protocol.py."""

    def __init__(self, python: Path, system: System, config: dict[str, Any], threads: int, folder: Path, limit: float) -> None:
        self.limit = limit
        self.log = folder / f"{system.name.replace(', ', '-')}.log"
        told = json.dumps({**config, "measurement": system.measurement, "threads": threads})
        self.errors = self.log.open("w")
        self.process = subprocess.Popen(
            [python, "-m", system.module, told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=folder,  # some libraries drop files where they stand
            env=environment(threads) | dict(system.variables),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.close()
            self.process.wait(30)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def ask(self) -> Row:
        """One repetition."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        return self.answer()

    def answer(self) -> Row:
        """The next line; WorkerFailed when there is none within the limit."""
        assert self.process.stdout is not None
        watch = threading.Timer(self.limit, self.process.kill)
        watch.start()
        line = self.process.stdout.readline()
        watch.cancel()
        if not line:
            raise self._failed()
        row: Row = json.loads(line)
        return row

    def _failed(self) -> WorkerFailed:
        code = self.process.wait()
        if code == -9:
            return WorkerFailed(f"killed: no answer within {self.limit:.0f} s, or no memory left")
        said = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()] or ["no message"]
        return WorkerFailed(f"ended with {code}: {said[-1][:300]}")


def environment(threads: int) -> dict[str, str]:
    """Threads held, waiting threads asleep, nothing fetched from a network, no file written beside the sources."""
    held = dict.fromkeys(THREAD_VARIABLES, str(threads))
    quiet = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **held, **quiet, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}


def run_case(case: Case, pythons: dict[str, Path], threads: int, repetitions: int, folder: Path, limit: float) -> Iterator[Row]:
    """Rows of a case: one `ready` a system, one `repetition` each time, `failed` where a system could not go on.

    pythons: the interpreter of each environment that could be made; systems of the others are passed over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = {"measurement": case.measurement, "case": case.label, "unit": case.unit, "x": case.x, "threads": threads}
    if case.config.get("device", "cpu") != "cpu":
        key["device"] = case.config["device"]
    key |= {name: case.config[name] for name in ("dim", "blocks", "heads", "max_len", "batch")}
    systems = [system for system in case.systems if system.environment in pythons]

    def start(system: System) -> Worker:
        return Worker(pythons[system.environment], system, case.config, threads, folder, limit)

    def said(kind: str, system: System, row: Row) -> Row:
        return {"kind": kind, **key, "system": system.name, **row}

    workers: dict[System, Worker] = {}
    try:
        for system in systems:
            say(f"{case.measurement}, {case.label}, {threads} thread(s): {system.name} gets ready")
            workers[system] = start(system)
            try:
                yield said("ready", system, workers[system].answer())
            except WorkerFailed as error:
                yield said("failed", system, {"reason": str(error)})
                workers.pop(system).__exit__()
        for repetition in range(repetitions):
            for system in list(workers):
                try:
                    if case.fresh and repetition:
                        workers[system].__exit__()
                        workers[system] = start(system)
                        workers[system].answer()
                    yield said("repetition", system, {"repetition": repetition, **workers[system].ask()})
                except WorkerFailed as error:
                    yield said("failed", system, {"reason": str(error)})
                    workers.pop(system).__exit__()
    finally:
        for worker in workers.values():
            worker.__exit__()


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
