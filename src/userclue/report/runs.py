"""Read what a report shows out of run folders: artifacts of pre-training (`model`) and of transfer (`fitted`)."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from userclue.errors import ArtifactError
from userclue.files import MANIFEST, read_manifest, verify_files

FORMAT_VERSION = 1
KINDS = ("model", "fitted")
REMEDY = "give folders that userclue pretrain or finetune wrote"
Json = dict[str, Any]


@dataclass(frozen=True)
class UserMap:
    """Users drawn in two dimensions: x, y float64 [n], one label each, and the share of variance each axis explains."""

    x: np.ndarray
    y: np.ndarray
    labels: tuple[str, ...]
    explained: tuple[float, float] | None


@dataclass(frozen=True)
class Run:
    """One run folder, read: `rows` are the lines of its journal, oldest first; `task` holds a fitted run's results."""

    path: Path
    kind: str
    manifest: Json
    config: Json
    rows: tuple[Json, ...]
    task: Json | None
    map: UserMap | None
    name: str

    @property
    def encoder(self) -> Json:
        """Settings of the encoder; empty when the run does not say."""
        return self.config.get("encoder") or {}

    @property
    def pretrain(self) -> Json:
        """Settings of pre-training; empty for a model that was not pre-trained."""
        return self.config.get("pretrain") or {}


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read every run once, in the order given, each under a name of its own. Raises ArtifactError."""
    distinct = list({path.resolve(): path for path in paths}.values())
    runs = [read_run(path) for path in distinct]
    return [replace(run, name=name) for run, name in zip(runs, _names(distinct), strict=True)]


def read_run(folder: Path) -> Run:
    """Read and verify one run folder.

    Raises ArtifactError when the folder is none of ours, is of another format version, has a file that is missing,
    changed or unreadable, or has results without the parts that the comparison is made of.
    """
    manifest = read_manifest(folder, KINDS, REMEDY)
    kind = manifest["kind"]
    _check_version(folder / MANIFEST, manifest)
    verify_files(folder, manifest, hashes=True)
    config = _read_object(folder / "config.json")
    for section in ("encoder", "pretrain", "data", "environment"):
        if not isinstance(config.get(section) or {}, dict):
            raise ArtifactError(f"{folder / 'config.json'}: {section!r} is not an object; make the run again")
    _check_version(folder / "config.json", config)
    journal, results, positions = folder / "metrics.jsonl", folder / "task.json", folder / "map.parquet"
    return Run(
        path=folder,
        kind=kind,
        manifest=manifest,
        config=config,
        rows=_read_journal(journal) if journal.exists() else (),
        task=_read_task(results) if kind == "fitted" and results.exists() else None,
        map=_read_map(positions) if positions.exists() else None,
        name=folder.resolve().name,
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _check_version(path: Path, content: Json) -> None:
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError(f"{path}: has format version {version!r}, this userclue reads {FORMAT_VERSION}; make the run again or update")


def _read_object(path: Path) -> Json:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path.parent}: has no {path.name}; the folder is damaged, make it again") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); make the run again") from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: is not a JSON object; make the run again")
    return content


def _read_journal(path: Path) -> tuple[Json, ...]:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ArtifactError(f"{path}, line {number}: cannot be read ({error}); make the run again") from None
        if not isinstance(row, dict):
            raise ArtifactError(f"{path}, line {number}: is not a JSON object; make the run again")
        rows.append(row)
    return tuple(rows)


def _read_task(path: Path) -> Json:
    """The results, checked for what the tables read: every score an object whose `value` is a number or null."""
    task = _read_object(path)
    for key, kind in (("task", str), ("primary", str), ("metrics", dict)):
        if not isinstance(task.get(key), kind):
            raise ArtifactError(f"{path}: has no {key!r}; make the run again")
    for key in ("baselines", "differences", "unseen", "by_user", "undefined", "split", "settings", "environment"):
        if not isinstance(task.get(key) or {}, dict):
            raise ArtifactError(f"{path}: {key!r} is not an object; make the run again")
    if task["primary"] not in {**task["metrics"], **(task.get("undefined") or {})}:
        raise ArtifactError(f"{path}: the primary metric {task['primary']!r} is not among its metrics; make the run again")
    places: list[tuple[str, Iterable[Any]]] = [("metrics", [task["metrics"]])]
    places += [(key, (task.get(key) or {}).values()) for key in ("baselines", "differences")]
    for view in ("unseen", "by_user"):
        second = task.get(view) or {}
        places += [(f"{view} metrics", [second["metrics"]])] if "metrics" in second else []
        places += [(f"{view} {key}", (second.get(key) or {}).values()) for key in ("baselines", "differences")]
    for place, systems in places:
        _check_scores(path, place, systems)
    return task


def _check_scores(path: Path, place: str, systems: Iterable[Any]) -> None:
    for scores in systems:
        for name, score in scores.items() if isinstance(scores, dict) else [("?", None)]:
            numbers = [score.get(part) for part in ("value", "low", "high")] if isinstance(score, dict) else ["?"]
            if not all(number is None or isinstance(number, int | float) for number in numbers):
                raise ArtifactError(f"{path}: {place}, {name!r}: {score!r} is not a value with low and high; make the run again")


def _read_map(path: Path) -> UserMap:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path}: cannot be read ({str(error).splitlines()[0]}); make the run again") from None
    missing = sorted({"x", "y", "label"} - set(table.column_names))
    if missing:
        raise ArtifactError(f"{path}: has no column {missing[0]!r}; make the run again")
    x, y = (table[name].to_numpy().astype(np.float64) for name in ("x", "y"))
    labels = ["no label" if label is None else str(label) for label in table["label"].to_pylist()]
    finite = np.isfinite(x) & np.isfinite(y)
    raw = (table.schema.metadata or {}).get(b"explained")
    shares = json.loads(raw) if raw else None
    return UserMap(
        x=x[finite],
        y=y[finite],
        labels=tuple(label for label, keep in zip(labels, finite, strict=True) if keep),
        explained=(float(shares[0]), float(shares[1])) if shares else None,
    )
