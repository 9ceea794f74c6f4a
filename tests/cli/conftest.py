"""Commands run as a person types them, in this process; and a small shop with everything the commands make of it."""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from userclue.cli.app import main

SMALL = ["--dim", "16", "--blocks", "1", "--heads", "2", "--max-len", "8", "--dropout", "0.1", "--batch-size", "32"]
FAST = ["--epochs", "2", "--lr", "0.02", "--batch-size", "32"]


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@dataclass(frozen=True)
class Outcome:
    """Exit code and both streams of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """All of standard output as one JSON object."""
        found: dict[str, Any] = json.loads(self.out, parse_constant=_refuse)
        return found

    @property
    def error(self) -> str:
        """The one line that tells what went wrong; the test fails when there is none, or more than that."""
        lines = self.err.splitlines()
        wrong = [line for line in lines if line.startswith("error: ")]
        assert len(wrong) == 1, self.err
        assert lines[-1] == wrong[0], self.err
        assert self.out == ""
        assert "Traceback" not in self.err
        return wrong[0].removeprefix("error: ")


def userclue(*words: object) -> Outcome:
    """Run a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    before = sys.argv
    sys.argv = ["userclue", *(str(word) for word in words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return Outcome(code, out.getvalue(), err.getvalue())


def write_shop(folder: Path, users: int = 60) -> None:
    """events.csv, labels.csv and targets.csv: three kinds of customer, each going round a ring of items of its own."""
    rng = np.random.default_rng(0)
    events, labels, targets = ["user_id,item_id,timestamp"], ["user_id,label"], ["user_id,item_id"]
    for user in range(users):
        start = int(rng.integers(0, 6))
        labels.append(f"{user},{'abc'[user % 3]}")
        targets += [f"{user},{'abc'[user % 3]}-{good}" for good in range(1 + user % 3)]
        events += [
            f"{user},{'abc'[user % 3]}{(start + step) % 6},{1_700_000_000 + 7 * user + 3600 * step}"
            for step in range(int(rng.integers(5, 12)))
        ]
    (folder / "events.csv").write_text("\n".join(events) + "\n")
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "targets.csv").write_text("\n".join(targets) + "\n")


@dataclass
class Shop:
    """A folder in which every command has been run, and what each of them said."""

    path: Path
    said: dict[str, Outcome] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Path:
        return self.path / name


@pytest.fixture(scope="session")
def run() -> Callable[..., Outcome]:
    return userclue


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Options of a small encoder."""
    return list(SMALL)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """events.csv labels.csv targets.csv data model profile cold next users.parquet report.html; tests only read it."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    write_shop(shop.path)
    profiling = ["--task", "profiling", "--labels", shop["labels.csv"]]
    cold = ["--task", "cold-start", "--labels", shop["targets.csv"]]
    sequential = ["--task", "sequential", "--split", "leave-one-out"]
    lines: dict[str, list[object]] = {
        "audit": ["audit", shop["events.csv"]],
        "prepare": ["prepare", shop["events.csv"], "-o", shop["data"]],
        "pretrain": ["pretrain", shop["data"], "-o", shop["model"], "--epochs", 2, "--seed", 3, *SMALL],
        "profile": ["finetune", shop["model"], shop["data"], *profiling, "-o", shop["profile"], *FAST],
        "cold": ["finetune", shop["model"], shop["data"], *cold, "-o", shop["cold"], *FAST],
        "next": ["finetune", shop["model"], shop["data"], *sequential, "-o", shop["next"], *FAST],
        "evaluate": ["evaluate", shop["profile"], shop["data"], "--labels", shop["labels.csv"]],
        "embed": ["embed", shop["model"], shop["events.csv"], "-o", shop["users.parquet"]],
        "report": ["report", shop["model"], shop["profile"], shop["cold"], shop["next"], "-o", shop["report.html"]],
        "doctor": ["doctor", shop["data"], shop["model"], shop["profile"]],
    }
    for name, words in lines.items():
        shop.said[name] = userclue(*words, "--json")
        assert shop.said[name].code == 0, shop.said[name].err
    return shop


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Every file and folder below a path, hidden ones too."""

    def look(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}

    return look
