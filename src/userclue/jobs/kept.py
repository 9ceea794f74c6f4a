"""Vectors that an unfinished `embed` keeps beside its output, so that the same command goes on after a kill.

users.parquet.checkpoint/  state.json    fingerprint of model and data; of each part its users, counts and SHA-256
                           part-….npy    float32 [users, D], one file each time enough users have come together
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from userclue.encoding import Piece, bounds
from userclue.errors import UsageError
from userclue.files import sha256, staged_file, write_json


class Kept:
    """The parts kept for the output `out`. `every`: users that make a part; None: keep no more of them.

    Raises UsageError when the parts there are of another model or other data, unless they may be thrown away (`overwrite`).
    """

    def __init__(self, out: Path, fingerprint: dict[str, Any], every: int | None, overwrite: bool) -> None:
        self.folder = folder_of(out)
        self.warnings: list[str] = []
        self._fingerprint, self._every = fingerprint, every
        self._parts: list[dict[str, Any]] = []
        self._waiting: list[Piece] = []
        state = self._read()
        if state is not None and state["fingerprint"] != fingerprint:
            if not overwrite:
                raise UsageError(
                    f"{self.folder}: keeps vectors of another model or other data; choose another output, delete the folder, "
                    "or add --overwrite"
                )
            state = None
        if state is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        for number, part in enumerate([] if state is None else state["parts"]):
            if not self._whole(number, part):
                self.warnings.append(f"{self._path(number)}: is damaged; its users and those after it are encoded again")
                break
            self._parts.append(part)

    @property
    def users(self) -> int:
        """Users kept, the first ones."""
        return sum(part["users"] for part in self._parts)

    def pieces(self) -> Iterator[Piece]:
        """What is kept, in pieces of the usual bounds."""
        for number, part in enumerate(self._parts):
            vectors = np.load(self._path(number), mmap_mode="r")
            unknown, nothing_known = part["unknown"], part["nothing_known"]
            for begin, end in bounds(len(vectors)):
                yield Piece(vectors[begin:end], unknown, nothing_known)
                unknown = nothing_known = 0  # counted with the first piece of their part

    def add(self, piece: Piece) -> None:
        """Keep one more piece: at once, or when enough users have come together."""
        self._waiting.append(piece)
        if self._every is not None and sum(len(one) for one in self._waiting) >= self._every:
            self._save()

    def remove(self) -> None:
        """The output is there: nothing need be kept."""
        shutil.rmtree(self.folder)

    def _save(self) -> None:
        vectors = np.concatenate([one.vectors for one in self._waiting])
        path = self._path(len(self._parts))
        with staged_file(path, overwrite=True) as aside, aside.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
        unknown, nothing_known = (sum(getattr(one, name) for one in self._waiting) for name in ("unknown", "nothing_known"))
        self._parts.append({"users": len(vectors), "unknown": unknown, "nothing_known": nothing_known, "sha256": sha256(path)})
        write_json(self.folder / "state.json", {"fingerprint": self._fingerprint, "parts": self._parts})
        self._waiting = []

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.npy"

    def _whole(self, number: int, part: dict[str, Any]) -> bool:
        path = self._path(number)
        return path.is_file() and sha256(path) == part["sha256"]

    def _read(self) -> dict[str, Any] | None:
        """state.json, or None when nothing (or nothing readable) is kept."""
        try:
            state: dict[str, Any] = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            self.warnings.append(f"{self.folder / 'state.json'}: is damaged; all users are encoded again")
            return None
        return state


def folder_of(out: Path) -> Path:
    """Where the vectors for `out` are kept."""
    return out.with_name(f"{out.name}.checkpoint")
