"""The runner: every cell once, kept whole; interrupted and resumed it gives the rows of a run that was not."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch.overrides import _pop_mode

from userclue.errors import ArtifactError, Interrupted, UsageError
from userclue.experiments.kept import read_cell
from userclue.experiments.runner import reproduce
from userclue.experiments.scales import SCALES, Scale, of_minutes, scale_named
from userclue.experiments.studies import PAPER, STUDIES
from userclue.train.journal import UNWATCHED, Watch

pytestmark = pytest.mark.slow

TIMES = ("pretrain_seconds", "fit_seconds")


def call(out: Path, scale: Scale, data: Path | None, *names: str, **more: Any) -> Any:
    return reproduce(names, out, scale, **{"data": data, "tell": lambda _: None, "watch": UNWATCHED, "seeds": (0,), **more})


def rows(out: Path) -> list[dict[str, Any]]:
    """The tidy rows without what the clock decides."""
    found: list[dict[str, Any]] = pq.read_table(out / "rows.parquet").drop_columns(TIMES).to_pylist()
    return found


def test_every_experiment_yields_rows(made: Any) -> None:
    assert made.done.experiments == list(STUDIES)
    assert {row["experiment"] for row in rows(made.out)} == set(STUDIES)
    assert made.done.warnings == []
    manifest = json.loads((made.out / "manifest.json").read_text())
    assert manifest["kind"] == "reproduction"
    assert set(PAPER) < set(manifest["experiments"])


def test_experiments_share_cells_and_encoders(made: Any) -> None:
    """Table III's dropout view, Figure 5's 0.5 and Figure 3's CLUE are one cell; all its fits on one source one pre-training."""
    manifest = json.loads((made.out / "manifest.json").read_text())

    def cells(experiment: str, **wanted: Any) -> set[str]:
        entries = manifest["experiments"][experiment]["entries"]
        return {one["cell"] for one in entries if all(one[key] == value for key, value in wanted.items())}

    shared = cells("table3", variant="dropout", seed=0)
    assert shared == cells("fig5", variant="0.5", seed=0) == cells("fig3", system="clue", seed=0)
    assert len(shared) == 1
    listed = sum(len(told["entries"]) for told in manifest["experiments"].values())
    assert made.done.run == len(list((made.out / "cells").iterdir())) < listed
    # 3 sources × 2 seeds × (clue, masked), three views more, one dropout more, and three of Figure 6; Figure 7 needs no other.
    ours = 3 * 2 * 2 + 2 * (3 + 1 + 3)
    # Preset best on 3 sources, whole and in the eight other pre-trainings of the ablation (its frozen vectors need no more), and in
    # five of its ingredients alone: none, the factors, three losses.
    best = 2 * 3 * (1 + 8 + 5)
    lengths = 2 * 3  # three lengths of the history beside the plan's own
    assert len(list((made.out / "encoders").iterdir())) == ours + best + lengths


def test_seeds_change_split_and_weights_alike(made: Any) -> None:
    found = [row for row in rows(made.out) if (row["experiment"], row["plan"], row["metric"]) == ("table2", "ml-1m-gender", "auroc")]
    by_seed = {row["seed"]: row["value"] for row in found if row["system"] == "clue"}
    assert set(by_seed) == {0, 1}
    assert by_seed[0] != by_seed[1]


def test_interrupted_and_resumed_gives_the_same_rows(few: Path, scale: Scale, tmp_path: Path) -> None:
    names, only = ("table3", "fig6"), ("clue", "ml-1m-30")
    call(tmp_path / "whole", scale, few, *names, only=only)
    runs = 0

    def stop_at_fourth(_: Any) -> None:
        nonlocal runs
        runs += 1
        if runs == 4:  # a fit or a pre-training, in the middle of a cell, and of what PyTorch does to its modes
            with torch.device("meta"):
                _pop_mode()
                raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"stopped at cell 2 of 7 .* 1 finished cells are kept .* the same command goes on") as stopped:
        call(tmp_path / "torn", scale, few, *names, only=only, watch=Watch(started=stop_at_fourth))
    assert stopped.value.exit_code == 5
    assert not (tmp_path / "torn" / "rows.parquet").exists()
    done = call(tmp_path / "torn", scale, few, *names, only=only)
    assert (done.kept, done.run) == (1, 6)
    assert rows(tmp_path / "torn") == rows(tmp_path / "whole")
    for name in ("pooled", "curves"):
        assert pq.read_table(tmp_path / "torn" / f"{name}.parquet").equals(pq.read_table(tmp_path / "whole" / f"{name}.parquet"))
    assert call(tmp_path / "torn", scale, few, *names, only=only).run == 0


def test_one_folder_gathers_several_calls(few: Path, scale: Scale, tmp_path: Path) -> None:
    call(tmp_path / "out", scale, few, "fig5", only=("clue", "ml-1m-30"))
    done = call(tmp_path / "out", scale, few, "table3", only=("clue", "ml-1m-30"))
    assert done.kept == 1  # dropout 0.5
    assert {row["experiment"] for row in rows(tmp_path / "out")} == {"fig5", "table3"}


def test_another_budget_is_refused_and_overwritten_when_asked(few: Path, scale: Scale, tmp_path: Path) -> None:
    only = ("ml-1m-gender",)
    call(tmp_path / "out", scale, few, "table1", only=only)
    other = scale.with_steps(5, None)
    with pytest.raises(UsageError, match="holds results of another budget"):
        call(tmp_path / "out", other, few, "table1", only=only)
    assert call(tmp_path / "out", other, few, "table1", only=only, overwrite=True).run == 1


def test_a_folder_of_somebody_else_is_left_alone(few: Path, scale: Scale, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(Exception, match="out: is ") as refused:
            call(tmp_path / "out", scale, few, "table1", overwrite=overwrite)
        assert isinstance(refused.value, UsageError | ArtifactError)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_damaged_cell_is_named(few: Path, scale: Scale, tmp_path: Path) -> None:
    only = ("ml-1m-gender",)
    call(tmp_path / "out", scale, few, "table1", only=only)
    (cell,) = (tmp_path / "out" / "cells").iterdir()
    cell.write_bytes(cell.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"cannot be read .*; delete it and call again"):
        call(tmp_path / "out", scale, few, "table1", only=only)
    with pytest.raises(ArtifactError, match=cell.name):
        read_cell(cell)
    cell.unlink()
    assert call(tmp_path / "out", scale, few, "table1", only=only).run == 1


def test_the_search_chooses_by_the_validation_part(few: Path, scale: Scale, tmp_path: Path) -> None:
    searching = Scale("paper", scale.pretrain, scale.fit, (0,), None, dropouts=(0.5,), shares=(1.0,), grid=(0.1, 0.9))
    call(tmp_path / "out", searching, few, "table2", only=("clue", "clue_zero", "ml-1m-gender"))
    found = {row["system"]: json.loads(row["settings"])["search"] for row in rows(tmp_path / "out")}
    assert {one["setting"] for one in found.values()} == {"dropout"}
    assert {one["by"] for one in found.values()} == {"accuracy of the validation part"}
    assert all(one["chosen"] in searching.grid for one in found.values())


def test_scales() -> None:
    assert SCALES["paper"].most_users is None
    assert SCALES["paper"].grid == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert SCALES["small"].with_steps(7, None).pretrain == {"steps": 7}
    assert SCALES["paper"].with_steps(None, 9).fit == {"steps": 9}
    assert scale_named("1.5min").fit == {"minutes": 0.75}


def test_equal_time_is_halved_where_there_is_a_pre_training(few: Path, scale: Scale, tmp_path: Path) -> None:
    only = ("best", "clue_zero", "peterrec", "ml-1m-gender")
    call(tmp_path / "out", of_minutes(scale, 0.02), few, "table2", only=only)
    found = {row["system"]: row for row in rows(tmp_path / "out") if row["seed"] == 0}
    told = {name: json.loads(row["settings"]) for name, row in found.items()}
    assert {name: one["settings"]["minutes"] for name, one in told.items()} == {"best": 0.01, "peterrec": 0.01, "clue_zero": 0.02}
    assert {name: one["pretrain"]["minutes"] for name, one in told.items() if "pretrain" in one} == {"best": 0.01, "peterrec": 0.01}
    assert all(one["settings"]["steps"] is None for one in told.values())
    assert "fit without a pre-training 0.02 minutes" in (tmp_path / "out" / "report.md").read_text()


def test_nothing_to_do_is_said(few: Path, scale: Scale, tmp_path: Path) -> None:
    done = call(tmp_path / "out", scale, few, "fig7", only=("ml-1m-30",))
    assert done.run == 0
    assert done.warnings == ["fig7: nothing to do; no data for it, or --only leaves nothing"]
