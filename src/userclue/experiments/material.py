"""Sources made ready: a dataset and its labels in one folder, made once and verified against the files it came from."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from userclue.data.peterrec import TARGETS
from userclue.data.prepare import prepare
from userclue.data.public import Tables
from userclue.data.store import Dataset
from userclue.errors import UsageError
from userclue.experiments.plans import SOURCES, Plan, Source
from userclue.files import MANIFEST, read_manifest, sha256, staged_folder, write_json

KIND = "reproduction-data"
USERS_SEED = 0


@dataclass(frozen=True)
class Material:
    """A source made ready: its dataset, the files of its labels by name, and a fingerprint of both."""

    dataset: Dataset
    labels: dict[str, Path]
    fingerprint: dict[str, str]

    def labels_of(self, plan: Plan) -> Path | None:
        """The labels or targets that a plan needs."""
        return None if plan.task == "sequential" else self.labels[plan.label or "targets"]


def material(name: str, data: Path | None, out: Path, most_users: int | None, tell: Callable[[str], None]) -> Material:
    """The source `name`, in the folder out/name; read from below `data` if it is not there yet.

    most_users: where a source has more, so many are drawn, always the same. Raises UsageError when the folder was made from other
    files or another number of users, and what `prepare` raises.
    """
    source, folder = SOURCES[name], out / name
    paths = source.found(data)
    made_from = {"most_users": most_users, "files": {path.name: sha256(path) for path in paths}}
    if not folder.exists():
        tell(f"{name}: {source.about}")
        with staged_folder(folder) as aside:
            _make(source, data, paths, aside, most_users)
            write_json(aside / MANIFEST, {"kind": KIND, "files": {}, "made_from": made_from})
    manifest = read_manifest(folder, KIND, "choose another output or add --overwrite")
    if manifest["made_from"] != made_from:
        raise UsageError(f"{folder}: was made from other files, or of another number of users; choose another output or add --overwrite")
    dataset = Dataset.open(folder / "dataset")
    labels = {path.stem: path for path in sorted(folder.glob("labels/*.parquet"))}
    if (dataset.path / TARGETS).exists():
        labels["targets"] = dataset.path / TARGETS
    files = dataset.manifest["files"]
    prints = {key: files[key]["sha256"] for key in ("items.npy", "users.parquet", "vocabulary.parquet")}
    return Material(dataset, labels, prints | {key: sha256(path) for key, path in labels.items()})


def _make(source: Source, data: Path | None, paths: list[Path], folder: Path, most_users: int | None) -> None:
    if source.read is None:
        lines = [_lines_drawn(path, folder / "drawn" / path.name, most_users, len(paths)) for path in paths]
        prepare(lines, folder / "dataset", **source.options)
        shutil.rmtree(folder / "drawn", ignore_errors=True)
        return
    tables = _drawn(source.read(data / source.folder if data is not None and source.folder is not None else Path()), most_users)
    options: dict[str, Any] = {"time_col": "timestamp" if "timestamp" in tables.events.column_names else None, **source.options}
    prepare(tables.events, folder / "dataset", items=tables.items, **options)
    (folder / "labels").mkdir()
    for name, labels in tables.labels.items():
        table = pa.table({"user_id": list(labels), "label": pa.array(labels.values(), pa.string())})
        pq.write_table(table if "window" not in options else _for_windows(table, folder), folder / "labels" / f"{name}.parquet")
    if tables.targets is not None:
        pq.write_table(tables.targets, folder / "labels" / "targets.parquet")


def _for_windows(labels: pa.Table, folder: Path) -> pa.Table:
    """The labels of people as labels of their windows."""
    users = Dataset.open(folder / "dataset").user_table
    rows = pc.index_in(users["source_user"], value_set=labels["user_id"].combine_chunks())
    return pa.table({"user_id": users["user_id"], "label": labels["label"].take(rows)}).drop_null()


def _drawn(tables: Tables, most_users: int | None) -> Tables:
    """The tables with at most so many users, drawn by a fixed seed; labels and targets are joined by id later."""
    users = pc.unique(tables.events["user_id"])
    if most_users is None or len(users) <= most_users:
        return tables
    chosen = np.random.default_rng(USERS_SEED).permutation(len(users))[:most_users]
    kept = pc.is_in(tables.events["user_id"], value_set=users.take(pa.array(np.sort(chosen))))
    return Tables(tables.events.filter(kept), tables.items, tables.labels, tables.targets)


def _lines_drawn(path: Path, to: Path, most_users: int | None, files: int) -> Path:
    """A file of one user a line, or where it has more than its share of `most_users`, a copy of so many of its lines."""
    if most_users is None:
        return path
    most = max(1, most_users // files)
    with path.open("rb") as file:
        total = sum(1 for _ in file)
    if total <= most:
        return path
    chosen = np.zeros(total, bool)
    chosen[np.random.default_rng(USERS_SEED).permutation(total)[:most]] = True
    to.parent.mkdir(exist_ok=True)
    with path.open("rb") as file, to.open("wb") as kept:
        kept.writelines(_where(file, chosen))
    return to


def _where(lines: Any, chosen: np.ndarray) -> Iterator[bytes]:
    return (line for line, take in zip(lines, chosen, strict=True) if take)
