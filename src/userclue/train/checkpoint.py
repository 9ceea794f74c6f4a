"""Checkpoints of a training run: safetensors and JSON only, written aside and renamed, the two latest kept.

<target>/checkpoint/step-000000300/state.safetensors   weights, buffers, optimiser
                                   state.json          progress, rows, fingerprint, SHA-256 of the tensors
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from userclue.errors import UsageError
from userclue.files import fsync, sha256, write_json
from userclue.train.journal import Row
from userclue.train.tensors import save_tensors

KEPT = 2


@dataclass
class Progress:
    """Where a run stands: enough, with the weights and the optimiser, to go on bit-equal."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of the run that will become `target`; `fingerprint` names settings and data, and must match on resuming."""

    def __init__(self, target: Path, fingerprint: dict[str, Any]) -> None:
        self.folder = target / "checkpoint"
        self.fingerprint = fingerprint
        self.warnings: list[str] = []

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write a checkpoint whole and drop all but the two latest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"step-{progress.step:09d}"
        aside = self.folder / f".{final.name}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        save_tensors(_tensors(module, optimizer), aside / "state.safetensors")
        fsync(aside / "state.safetensors")
        state = {"fingerprint": self.fingerprint, "sha256": sha256(aside / "state.safetensors"), "progress": vars(progress)}
        write_json(aside / "state.json", {**state, "own_sha256": _digest(state)})
        fsync(aside)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(aside, final)
        fsync(self.folder)
        for old in self._all()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Load the latest whole checkpoint; a damaged one is passed over with a warning. Nothing there: a fresh start.

        Raises UsageError when the checkpoint is of other settings or data.
        """
        for path in reversed(self._all()):
            try:
                state = json.loads((path / "state.json").read_text())
                if state.pop("own_sha256") != _digest(state) or sha256(path / "state.safetensors") != state["sha256"]:
                    raise ValueError("its SHA-256 does not match")
                tensors = load_file(path / "state.safetensors")
            except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
                self.warnings.append(f"{path}: this checkpoint is damaged ({error}); the one before it is used")
                continue
            self._check(state["fingerprint"], path)
            _restore(module, optimizer, tensors)
            return Progress(**state["progress"])
        return Progress()

    def _check(self, found: dict[str, Any], path: Path) -> None:
        for key in sorted(self.fingerprint.keys() | found.keys()):
            if self.fingerprint.get(key) != found.get(key):
                raise UsageError(
                    f"{path}: the interrupted run had {key}={found.get(key)}, this one has {self.fingerprint.get(key)}; "
                    "resume with the same settings and data, or start again with --overwrite"
                )

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []


def _digest(state: dict[str, Any]) -> str:
    """SHA-256 of what state.json says, the same before it is written and after it is read."""
    return hashlib.sha256(json.dumps(state, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).contiguous()
    return tensors


def _restore(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    module.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
