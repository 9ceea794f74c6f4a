"""Which data stand in for which, and how a source becomes a dataset with labels."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from userclue.data.labels import read_labels
from userclue.errors import UsageError
from userclue.experiments.material import Material, material
from userclue.experiments.plans import PLANS, SLOTS, SOURCES, plans_for, plans_for_all_systems, refuse_empty


def names(slot: str, data: Path | None) -> list[str]:
    return [plan.name for plan in plans_for((slot,), data)]


def quietly(_: str) -> None:
    return None


def test_every_plan_has_a_source_and_a_name_of_its_own() -> None:
    assert {plan.source for plan in PLANS} <= SOURCES.keys()
    assert len({plan.name for plan in PLANS}) == len(PLANS)
    assert SLOTS == ("ColdRec-1", "ColdRec-2", "AgeEst", "GenEst", "LifeEst", "MovieLens30", "MovieLens50")


def test_the_built_in_data_serves_without_any_other() -> None:
    assert names("ColdRec-1", None) == ["builtin-produce"]
    assert names("GenEst", None) == ["builtin-high-spender"]
    assert names("MovieLens50", None) == ["builtin-20"]


def test_stand_ins_come_before_the_built_in_data(public: Path, few: Path) -> None:
    assert names("AgeEst", public) == ["ml-1m-age", "atus-age"]
    assert names("AgeEst", few) == ["ml-1m-age"]
    assert names("ColdRec-1", public) == ["elec-cell"]
    assert names("ColdRec-1", few) == ["builtin-produce"]
    assert names("MovieLens30", few) == ["ml-1m-30"]


def test_the_papers_own_data_come_first(few: Path, tmp_path: Path) -> None:
    (tmp_path / "ml-1m").symlink_to(few / "ml-1m")
    (tmp_path / "GenEst").mkdir()
    (tmp_path / "GenEst" / "gender.csv").write_text("1,2,,0\n2,3,,1\n")
    (tmp_path / "ml-25m").mkdir()
    assert names("GenEst", tmp_path) == ["genest"]
    assert names("MovieLens30", tmp_path) == ["ml-1m-30"]  # the folder is there, the file is not


def test_all_systems_run_on_what_is_there(public: Path, few: Path) -> None:
    assert {plan.kind for plan in plans_for_all_systems(public)} == {"stand-in", "control"}
    assert {plan.source.startswith("ml-1m") for plan in plans_for_all_systems(few)} == {True}
    assert {plan.kind for plan in plans_for_all_systems(None)} == {"built-in"}


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    refuse_empty(None)
    with pytest.raises(UsageError, match=r"holds none of the data sets known .*ml-1m"):
        refuse_empty(tmp_path)


@pytest.mark.parametrize("name", sorted({plan.source for plan in PLANS if plan.kind in ("stand-in", "control")}))
def test_every_stand_in_becomes_a_dataset_with_its_labels(public: Path, tmp_path: Path, name: str) -> None:
    found = material(name, public, tmp_path, None, quietly)
    assert found.dataset.n_users > 0
    for plan in (plan for plan in PLANS if plan.source == name):
        path = found.labels_of(plan)
        assert (path is None) == (plan.task == "sequential")
        assert path is None or path.exists()


def test_windows_keep_the_labels_of_their_person(few: Path, tmp_path: Path) -> None:
    source = SOURCES["ml-1m-30"]
    shorter = SOURCES | {"short": type(source)("ml-1m", source.files, source.read, "", {"window": 5})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("userclue.experiments.material.SOURCES", shorter)
        found = material("short", few, tmp_path, None, quietly)
    assert (np.diff(found.dataset.offsets) == 5).all()
    of_person = dict(line.split("::")[:2] for line in (few / "ml-1m" / "users.dat").read_text().splitlines())
    labels = read_labels(found.labels["gender"]).to_pylist()
    assert len(labels) == found.dataset.n_users > len(of_person)
    assert all(of_person[row["user_id"].partition("#")[0]] == row["label"] for row in labels)


def peterrec(folder: Path, lines: int) -> Path:
    (folder / "ColdRec-1").mkdir(parents=True)
    rows = [f"0,{line + 1},{line + 2},,{9000 + line},{9001 + line}\n" for line in range(lines)]
    (folder / "ColdRec-1" / "fine.csv").write_text("".join(rows))
    return folder


def test_peterrecs_files_are_read_whole_or_in_part(tmp_path: Path) -> None:
    data = peterrec(tmp_path / "data", 40)
    whole = material("coldrec-1", data, tmp_path / "whole", None, quietly)
    assert (whole.dataset.n_users, whole.labels["targets"].name) == (40, "targets.csv")
    part = [material("coldrec-1", data, tmp_path / name, 10, quietly) for name in ("part", "again")]
    assert part[0].dataset.n_users == 10
    assert part[0].fingerprint == part[1].fingerprint != whole.fingerprint


def drawn(public: Path, folder: Path) -> Material:
    return material("atus", public, folder, 20, quietly)


def test_of_many_users_some_are_drawn_always_the_same(public: Path, tmp_path: Path) -> None:
    first, second = drawn(public, tmp_path / "a"), drawn(public, tmp_path / "b")
    assert first.dataset.n_users == 20
    assert first.fingerprint == second.fingerprint
    assert pq.read_table(first.labels["sex"]).num_rows == 60  # joined by id later


def test_what_was_made_of_other_files_is_refused(public: Path, tmp_path: Path) -> None:
    drawn(public, tmp_path)
    with pytest.raises(UsageError, match="was made from other files, or of another number of users"):
        material("atus", public, tmp_path, 30, quietly)
