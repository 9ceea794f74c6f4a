"""`userclue doctor`."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from userclue.cli.console import Report, reporting
from userclue.cli.options import Json, Threads, UnusedSeed
from userclue.errors import ArtifactError
from userclue.files import MANIFEST

Folders = Annotated[list[Path] | None, typer.Argument(help="Datasets or artifacts to verify, every byte.", show_default=False)]
CORE = ("torch", "numpy", "scipy", "duckdb", "pyarrow", "pydantic", "typer", "rich", "safetensors", "scikit-learn", "matplotlib", "jinja2")


def doctor_command(folders: Folders = None, *, seed: UnusedSeed = 0, threads: Threads = None, json: Json = False) -> None:
    """Tell what this machine has; verify datasets and artifacts.

    Example: userclue doctor data/shop models/shop
    """
    with reporting("doctor", as_json=json, seed=seed, threads=threads) as report:
        machine = _machine()
        versions = {name: _version(name) for name in CORE}
        missing = [name for name, version in versions.items() if version is None]
        if missing:
            report.warnings.append(f"not installed: {', '.join(missing)}; run `pip install --upgrade userclue`")
        report.fields = {"machine": machine, "versions": versions, "verified": _verify(folders or [], report)}
        rows = [[key, str(value)] for key, value in machine.items()] + [[name, version or "missing"] for name, version in versions.items()]
        report.show_table("This machine", {"": "left", "found": "left"}, rows)


def _machine() -> dict[str, Any]:
    import torch

    from userclue.native import describe

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cores,
        "torch threads": torch.get_num_threads(),
        "memory GB": _memory(),
        "free disk GB": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "kernels on the CPU": describe(),
        "gpu": ", ".join(gpus) or "none; everything runs on the CPU",
    }


def _memory() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _verify(folders: list[Path], report: Report) -> dict[str, str]:
    from userclue.artifact import Artifact
    from userclue.data.store import Dataset

    verified = {}
    for folder in folders:
        if not (folder / MANIFEST).exists():
            raise ArtifactError(f"{folder}: is neither a dataset nor an artifact (it has no {MANIFEST})")
        if (folder / "offsets.npy").exists():
            dataset = Dataset.open(folder)
            dataset.verify()
            verified[str(folder)] = f"dataset of {dataset.n_users:,} users, {dataset.n_events:,} events: whole"
        else:
            artifact = Artifact.open(folder)
            verified[str(folder)] = f"{artifact.manifest['kind']} {artifact.hash[:12]}: whole"
        report.show(f"{folder}: {verified[str(folder)]}")
    return verified
