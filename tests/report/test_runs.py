"""Run folders that cannot be shown are refused in one line that names the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from userclue.errors import ArtifactError
from userclue.files import write_json
from userclue.report.runs import read_run, read_runs


def test_a_run_is_read(tmp_path: Path, make_demo: Callable[[Path], list[Path]]) -> None:
    model, profile, sequential = read_runs(make_demo(tmp_path))
    assert (model.kind, model.name, len(model.rows), model.task) == ("model", "model", 46, None)
    assert profile.task is not None
    assert profile.map is not None
    assert profile.map.explained == (0.31, 0.12)
    assert len(profile.map.x) == len(profile.map.labels) == 2000
    assert sequential.map is None


def test_runs_of_one_name_are_told_apart_and_a_run_given_twice_is_shown_once(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    runs = [make_run(tmp_path / place / "model", "model") for place in "ab"]
    assert [run.name for run in read_runs([*runs, runs[0]])] == ["a/model", "b/model"]


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data").mkdir()
    write_json(tmp_path / "data" / "manifest.json", {"kind": "dataset", "format_version": 1, "files": {}})
    (tmp_path / "file").write_text("x")
    for name, message in (
        ("nowhere", "no such folder"),
        ("empty", "has no manifest.json"),
        ("data", "is a userclue dataset"),
        ("file", "manifest.json"),
    ):
        with pytest.raises(ArtifactError, match=message) as caught:
            read_run(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_changed_file_is_refused(tmp_path: Path, make_demo: Callable[[Path], list[Path]]) -> None:
    run = make_demo(tmp_path)[1]
    raw = bytearray((run / "task.json").read_bytes())
    raw[40] ^= 1
    (run / "task.json").write_bytes(raw)
    with pytest.raises(ArtifactError, match=r"task\.json: its SHA-256 differs"):
        read_run(run)
    (run / "task.json").unlink()
    with pytest.raises(ArtifactError, match=r"task\.json is missing"):
        read_run(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": None}, "has no 'metrics'"),
        ({"primary": "brier"}, "primary metric 'brier' is not among its metrics"),
        ({"metrics": {"accuracy": 0.8}}, "metrics, 'accuracy': 0.8 is not a value"),
        ({"baselines": {"majority": {"accuracy": {"value": "high"}}}}, "baselines, 'accuracy'"),
        ({"baselines": []}, None),
        ({"split": "80/5/15"}, "'split' is not an object"),
    ],
)
def test_results_that_lack_what_the_table_needs(
    tmp_path: Path, make_run: Callable[..., Path], profiling: dict[str, Any], change: dict[str, Any], message: str | None
) -> None:
    run = make_run(tmp_path / "r", "fitted", task=profiling | change)
    if message is None:
        assert read_run(run).task is not None
        return
    with pytest.raises(ArtifactError, match=message) as caught:
        read_run(run)
    assert "task.json" in str(caught.value)


def test_other_versions_and_broken_parts(tmp_path: Path, make_run: Callable[..., Path], seal_run: Callable[[Path, str], None]) -> None:
    newer = make_run(tmp_path / "newer", "model", config={"format_version": 2})
    with pytest.raises(ArtifactError, match=r"config\.json: has format version 2, this userclue reads 1"):
        read_run(newer)
    bare = make_run(tmp_path / "bare", "model")
    (bare / "config.json").unlink()
    seal_run(bare, "model")
    with pytest.raises(ArtifactError, match=r"has no config\.json"):
        read_run(bare)
    torn = make_run(tmp_path / "torn", "model")
    (torn / "metrics.jsonl").write_text('{"step": 1}\n\n{"step": 2, "lo')
    seal_run(torn, "model")
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl, line 3: cannot be read"):
        read_run(torn)


def test_maps_that_cannot_be_drawn(tmp_path: Path, make_run: Callable[..., Path], seal_run: Callable[[Path, str], None]) -> None:
    run = make_run(tmp_path / "r", "fitted", users=pa.table({"x": [1.0], "y": [2.0]}))
    with pytest.raises(ArtifactError, match=r"map\.parquet: has no column 'label'"):
        read_run(run)
    (run / "map.parquet").write_bytes(b"PAR1 no")
    seal_run(run, "fitted")
    with pytest.raises(ArtifactError, match=r"map\.parquet: cannot be read"):
        read_run(run)
    pq.write_table(pa.table({"x": [1.0, None, 2.0], "y": [0.0, 1.0, float("inf")], "label": ["a", "b", None]}), run / "map.parquet")
    seal_run(run, "fitted")
    users = read_run(run).map
    assert users is not None
    assert (users.labels, users.explained) == (("a",), None)


def test_null_in_the_journal_is_no_point(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "r", "model", rows=[{"step": 1, "loss": None}, {"step": 2, "loss": 0.5}])
    assert [json.dumps(row["loss"]) for row in read_run(run).rows] == ["null", "0.5"]
