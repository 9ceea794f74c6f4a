"""Runs the systems of a case, or the sizes of a growth table, in turn, A B C A B C, and hands back tidy rows."""

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

    def __init__(self, python: Path, case: Case, system: System, threads: int, folder: Path, limit: float) -> None:
        self.limit = limit
        self.log = folder / f"{f'{case.label}-{system.name}'.replace(', ', '-').replace(' ', '-')}.log"
        told = json.dumps({**case.config, "measurement": system.measurement, "threads": threads})
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


def run_in_turn(cases: list[Case], pythons: dict[str, Path], threads: int, repetitions: int, folder: Path, limit: float) -> Iterator[Row]:
    """Rows of cases, whose systems take turns: one `ready` a system, one `repetition` each time, `failed` where one could not go on.

    pythons: the interpreter of each environment that could be made; systems of the others are passed over.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def start(case: Case, system: System) -> Worker:
        return Worker(pythons[system.environment], case, system, threads, folder, limit)

    workers: dict[tuple[int, System], Worker] = {}

    def failed(turn: tuple[int, System], error: WorkerFailed) -> Row:
        workers.pop(turn).__exit__()
        return said("failed", turn, {"reason": str(error)})

    def said(kind: str, turn: tuple[int, System], row: Row) -> Row:
        return {"kind": kind, **_key(cases[turn[0]], threads), "system": turn[1].name, **row}

    try:
        for number, case in enumerate(cases):
            for system in (one for one in case.systems if one.environment in pythons):
                turn = number, system
                say(f"{case.measurement}, {case.label}, {threads} thread(s): {system.name} gets ready")
                workers[turn] = start(case, system)
                try:
                    yield said("ready", turn, workers[turn].answer())
                    if case.fresh:
                        workers[turn].__exit__()
                except WorkerFailed as error:
                    yield failed(turn, error)
        for repetition in range(repetitions):
            for turn in list(workers):
                try:
                    case = cases[turn[0]]
                    if case.fresh:
                        wake(Path(case.config["csv"]))
                        workers[turn] = start(case, turn[1])
                        workers[turn].answer()
                    yield said("repetition", turn, {"repetition": repetition, **workers[turn].ask()})
                    if case.fresh:
                        workers[turn].__exit__()
                except WorkerFailed as error:
                    yield failed(turn, error)
    finally:
        for worker in workers.values():
            worker.__exit__()


def wake(csv: Path) -> None:
    """Read the file that is to be measured, and use as much memory as preparing 10^7 events does.

    A virtual machine puts away what lies idle for seconds, also what its system keeps of files and what is free: whoever is first to
    touch it would pay for it in the place of all that follow.
    """
    with csv.open("rb") as file:
        while file.read(2**20):
            pass
    bytearray(b"1") * 2**30  # written, and given back


def _key(case: Case, threads: int) -> Row:
    device = {} if case.config.get("device", "cpu") == "cpu" else {"device": case.config["device"]}
    shape = {name: case.config[name] for name in ("dim", "blocks", "heads", "max_len", "batch")}
    return {"measurement": case.measurement, "case": case.label, "unit": case.unit, "x": case.x, "threads": threads, **device, **shape}


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
