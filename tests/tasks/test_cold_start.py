"""Cold start: what is learned, who is tested on what, and what a recommendation in the other domain looks like."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from userclue.config import FinetuneSettings
from userclue.data.prepare import prepare
from userclue.data.store import Dataset
from userclue.data.targets import read_targets
from userclue.data.vocabulary import FIRST_ITEM, UNK, Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import ArtifactError, DataError, UsageError
from userclue.files import MANIFEST, file_hashes, read_manifest, write_json
from userclue.jobs.finetune import evaluate, finetune
from userclue.tasks.cold_start import ColdStart, ColdStartModel
from userclue.tasks.registry import load_fitted
from userclue.tasks.sequential import SequentialModel

Fit = Callable[..., ColdStartModel]
Log = Callable[..., pa.Table]
KINDS = "abc"


def shelf(users: range = range(90), seed: int = 0) -> pa.Table:
    """A user of kind k takes one to five of the four goods k-0…k-3 of the other shop; 300 is no user of the log."""
    rng = np.random.default_rng([seed, users.start])
    rows = [(user, f"{KINDS[user % 3]}-{good}") for user in users for good in rng.integers(0, 4, rng.integers(1, 6))]
    rows.append((300, "never met"))
    return pa.table({"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows]})


@pytest.fixture(scope="module")
def targets() -> pa.Table:
    return shelf()


@pytest.fixture(scope="module")
def fit(encoder: UserEncoder, rings: Dataset, targets: pa.Table) -> Fit:
    def run(pretrained: UserEncoder = encoder, data: Dataset = rings, **settings: Any) -> ColdStartModel:
        chosen: dict[str, Any] = {"labels": targets, "epochs": 8, "lr": 0.02, "batch_size": 32, "baselines": False, **settings}
        model = finetune(pretrained, data, task="cold-start", **chosen)
        assert isinstance(model, ColdStartModel)
        return model

    return run


@pytest.fixture(scope="module")
def model(fit: Fit) -> ColdStartModel:
    return fit()


@pytest.fixture(scope="module")
def saved(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cold") / "fitted"
    fit(out=folder, epochs=3, baselines=True, with_scratch=True)
    return folder


def task_on(data: Dataset, table: Any, split: str = "user", fitted: ColdStartModel | None = None, **settings: Any) -> ColdStart:
    return ColdStart(data, data.sequences(), read_targets(table), "targets", split, FinetuneSettings.of(settings), fitted)


def ids_of(task: ColdStart, part: Any) -> list[Any]:
    return task.targets.ids(part.targets).to_pylist()


def test_the_other_shops_goods_are_learned(model: ColdStartModel) -> None:
    metrics = model.facts["metrics"]
    assert metrics["recall@10"]["value"] == 1
    assert metrics["mrr@10"]["value"] > 0.45  # four goods that nothing tells apart: (1 + 1/2 + 1/3 + 1/4) / 4 is the best there is
    ids, scores = model.recommend([["a0", "a1", "a2"], ["b5"], ["c3", "c4"]], k=4)
    assert [{good[0] for good in found} for found in ids] == [{"a"}, {"b"}, {"c"}]
    assert [len(set(found)) for found in ids] == [4, 4, 4]
    assert scores.shape == (3, 4)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert model.targets.n_items == 13
    assert "never met" in model.recommend([["a0"]], k=100)[0][0]
    with pytest.raises(UsageError, match="k must be at least 1; got 0"):
        model.recommend([["a0"]], k=0)


def test_instances_are_distinct_targets_of_known_users(rings: Dataset, targets: pa.Table) -> None:
    task = task_on(rings, targets)
    taken: dict[int, set[str]] = {}
    for user, good in zip(targets["user_id"].to_pylist(), targets["item_id"].to_pylist(), strict=True):
        taken.setdefault(user, set()).add(good)
    found: dict[int, list[str]] = {}
    for part in (task.train, task.valid, task.test):
        for place, good in enumerate(ids_of(task, part)):
            user = rings.users[int(part.users[place])].as_py()
            found.setdefault(user, []).append(good)
            np.testing.assert_array_equal(part.inputs[place], rings.sequences()[int(part.users[place])])
    assert found.keys() == set(range(90))
    for user, goods in found.items():
        assert len(goods) == len(set(goods)) == min(3, len(taken[user]))
        assert set(goods) <= taken[user]
    assert task.facts()["targets_without_user"] == 1
    assert {len(goods) for goods in found.values()} == {1, 2, 3}
    fewer = task_on(rings, targets, max_targets=1)
    assert sum(len(part) for part in (fewer.train, fewer.valid, fewer.test)) == 90


def test_split_by_user_keeps_a_user_in_one_part_and_by_instance_does_not(rings: Dataset, targets: pa.Table) -> None:
    task = task_on(rings, targets)
    users = [set(part.users.tolist()) for part in (task.train, task.valid, task.test)]
    assert [len(part) for part in users] == [72, 4, 14]
    assert len(set.union(*users)) == 90
    assert task.facts()["split"]["test_users"] == 14
    assert task_on(rings, targets, "80/5/15").facts() == task.facts()
    other = task_on(rings, targets, "instance")
    sizes = [len(part) for part in (other.train, other.valid, other.test)]
    total = sum(sizes)
    assert sizes == [total - round(0.05 * total) - round(0.15 * total), round(0.05 * total), round(0.15 * total)]
    assert set(other.train.users.tolist()) & set(other.test.users.tolist())
    pairs = [set(zip(part.users.tolist(), part.targets.tolist(), strict=True)) for part in (other.train, other.valid, other.test)]
    assert sum(map(len, pairs)) == len(set.union(*pairs)) == total
    for one in (task, other):
        assert f"Split {one.split}, 80/5/15 of {one.split}s" in one.conditions


def test_targets_are_numbered_by_training_instances(rings: Dataset, targets: pa.Table) -> None:
    task = task_on(rings, targets, train_fraction=0.3)
    counts = np.bincount(task.train.targets, minlength=task.outputs)
    np.testing.assert_array_equal(task.targets.counts, counts)
    assert (np.diff(counts[FIRST_ITEM:]) <= 0).all()
    facts = task.facts()
    assert facts["untrained_items"] == int((counts[FIRST_ITEM:] == 0).sum()) >= 1
    assert facts["untrained_test_targets"] == sum(counts[target] == 0 for target in task.test.targets)
    assert len(set(task.train.users.tolist())) == round(72 * 0.3)
    np.testing.assert_array_equal(task.test.users, task_on(rings, targets).test.users)


def test_a_target_met_only_in_the_test_part_is_counted_and_told(rings: Dataset, targets: pa.Table) -> None:
    tested = sorted({rings.users[int(user)].as_py() for user in task_on(rings, targets, max_targets=100).test.users})
    only = pa.table({"user_id": tested[:2], "item_id": ["brand new", "brand new"]})
    task = task_on(rings, pa.concat_tables([targets, only]), max_targets=100)
    assert task.facts()["untrained_test_targets"] == 2
    assert f"2 of {len(task.test)} test targets are items without a training instance" in task.conditions


def timed(shift: int) -> pa.Table:
    """Users of the ring log (events at 1.7e9 + 7 u + 3600 step) and targets `shift` seconds after their first event."""
    rows = [(user, KINDS[user % 3], 1_700_000_000 + 7 * user + shift) for user in range(90)]
    return pa.table(dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True)))


def test_only_what_precedes_a_target_is_read(rings: Dataset) -> None:
    task = task_on(rings, timed(3600 * 3))
    for part in (task.train, task.valid, task.test):
        for place, user in enumerate(part.users.tolist()):
            np.testing.assert_array_equal(part.inputs[place], rings.sequences()[user][:3])
    whole = task_on(rings, timed(3600 * 3), before_target=False)
    assert whole.train.inputs.lengths.min() >= 5
    assert whole.targets_amid_history == 90
    half = pa.concat_tables([timed(3600 * 3).slice(0, 60), timed(0).slice(60)])
    assert task_on(rings, half).facts()["targets_without_history"] == 30
    with pytest.raises(DataError, match=r"none of 90 targets has an event of its user before it; check the times .*--no-before-target"):
        task_on(rings, timed(0))


def test_changing_the_future_changes_no_batch(rings: Dataset, make_log: Log, tmp_path: Path) -> None:
    log = make_log().to_pandas()
    late = log.groupby("user_id").cumcount() >= 3
    log.loc[late, "item_id"] = "b3"
    changed = prepare(log, tmp_path / "changed", vocabulary=rings.path, threads=1)
    assert not np.array_equal(changed.items, rings.items)
    one, other = (task_on(data, timed(3600 * 3)) for data in (rings, changed))
    for part in ("train", "valid", "test"):
        mine, theirs = getattr(one, part), getattr(other, part)
        np.testing.assert_array_equal(mine.inputs.gather()[0], theirs.inputs.gather()[0])
        np.testing.assert_array_equal(mine.targets, theirs.targets)


def test_reading_past_the_target_is_told(fit: Fit) -> None:
    assert fit(labels=timed(3600 * 3), epochs=1).facts["warnings"] == []
    warned = fit(labels=timed(3600 * 3), epochs=1, before_target=False).facts["warnings"]
    assert len(warned) == 1
    assert warned[0].startswith(
        "90 targets lie before the end of the history they are predicted from, so the figures flatter; use --before-"
    )


def test_the_most_recent_targets_are_taken_where_there_are_times(rings: Dataset) -> None:
    late = 1_800_000_000
    rows = [(user, good, late + step) for user in range(90) for step, good in enumerate("vwxyz")]
    table = pa.table(dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True)))
    task = task_on(rings, table, max_targets=2)
    assert set(ids_of(task, task.train)) == {"y", "z"}
    assert "at most 2 targets a user (the most recent)" in task.conditions
    assert task.targets.n_items == 5  # the others stay candidates


def test_windows_of_one_person_stay_together(make_log: Log, tmp_path: Path) -> None:
    data = prepare(make_log(), tmp_path / "windows", window=3, threads=1)
    names = data.users.to_pylist()
    task = task_on(data, pa.table({"user_id": names, "item_id": [name[0] for name in names]}))
    people = [{names[user].split("#")[0] for user in part.users} for part in (task.train, task.valid, task.test)]
    assert sum(map(len, people)) == len(set.union(*people))


def test_a_saved_model_is_whole(saved: Path, rings: Dataset, targets: pa.Table) -> None:
    loaded = load_fitted(saved)
    assert isinstance(loaded, ColdStartModel)
    facts = evaluate(loaded, rings, labels=targets)
    plain = {name: metrics for name, metrics in loaded.facts["baselines"].items() if name != "clue_zero"}
    assert set(plain) == {"popularity", "item_knn", "item_knn_window", "user_knn"}
    assert facts["baselines"] == plain
    for key in ("task", "mode", "users", "instances", "metrics", "split", "primary", "system", "target_items", "untrained_items"):
        assert facts[key] == loaded.facts[key], key
    assert facts["by_user"]["metrics"] == loaded.facts["by_user"]["metrics"]
    assert Vocabulary.load(saved / "targets.parquet").n_items == 13
    with pytest.raises(ArtifactError, match="was fitted to cold-start, not to sequential"):
        SequentialModel.from_pretrained(saved)


def test_figures_follow_from_the_ranks(saved: Path) -> None:
    facts, table = load_fitted(saved).facts, pq.read_table(saved / "predictions.parquet").to_pandas()
    assert len(table) == facts["instances"] == facts["split"]["test"]
    assert table["user_id"].nunique() == facts["users"] == facts["split"]["test_users"] < facts["instances"]
    for system, metrics in {facts["system"]: facts["metrics"], **facts["baselines"]}.items():
        hit = table[f"rank_{system}"] <= 10
        values = {"mrr@10": hit / table[f"rank_{system}"], "recall@10": hit, "ndcg@10": hit / np.log2(1 + table[f"rank_{system}"])}
        by_user = {facts["system"]: facts["by_user"]["metrics"], **facts["by_user"]["baselines"]}[system]
        for name, each in values.items():
            assert metrics[name]["value"] == pytest.approx(each.mean(), abs=1e-12)
            assert by_user[name]["value"] == pytest.approx(each.groupby(table["user_id"]).mean().mean(), abs=1e-12)


def test_ranks_are_among_all_targets_with_ties_against_the_model(saved: Path, rings: Dataset) -> None:
    model = load_fitted(saved)
    assert isinstance(model, ColdStartModel)
    table = pq.read_table(saved / "predictions.parquet")
    histories = rings.sequences().take(rings.user_positions(table["user_id"]))
    scores = model.scores(histories)[:, FIRST_ITEM:].astype(np.float64)
    own = scores[np.arange(len(scores)), model.targets.indices(table["target"]) - FIRST_ITEM]
    np.testing.assert_array_equal(table["rank_clue"].to_numpy(), (scores >= own[:, None]).sum(axis=1))
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    assert evaluate(model, rings, labels=shelf(), baselines=False)["metrics"]["recall@10"]["value"] == 0  # 13 tied goods


@pytest.mark.parametrize("split", ["user", "instance"])
def test_what_was_trained_on_is_never_tested_on(fit: Fit, make_log: Log, rings: Dataset, tmp_path: Path, split: str) -> None:
    model = fit(split=split, epochs=1, train_fraction=0.5)
    parts = model.parts.to_pylist()
    fields = ["user_id"] if split == "user" else ["user_id", "item_id"]
    assert list(parts[0]) == [*fields, "part"]
    before = {tuple(row[name] for name in fields): row["part"] for row in parts}
    assert len(before) == len(parts)
    data = prepare(make_log(first=60, users=60), tmp_path / "overlap", threads=1)  # 60 to 89 are known, 90 to 119 are new
    table = pa.concat_tables([shelf(range(90)), shelf(range(90, 120))])
    task = task_on(data, table, split, model, max_targets=100)
    tested = {
        (data.users[int(user)].as_py(), good)[: len(fields)] for user, good in zip(task.test.users, ids_of(task, task.test), strict=True)
    }
    known = {key for key in tested if key in before}
    assert known
    assert {before[key] for key in known} == {"test"}
    assert {key[0] for key in tested} >= set(range(90, 120))
    again = evaluate(model, rings, labels=shelf(), baselines=False)
    assert again["metrics"] == model.facts["metrics"]
    trained = {key for key, part in before.items() if part == "train"}
    only = pd.DataFrame([row for row in shelf().to_pylist() if tuple(row[name] for name in fields) in trained])
    with pytest.raises(DataError, match="the test part is empty"):
        evaluate(model, rings, labels=only)


def test_targets_unknown_to_the_model_are_misses(model: ColdStartModel, rings: Dataset) -> None:
    new = pa.table({"user_id": list(range(90)), "item_id": ["brand new"] * 90})
    facts = evaluate(model, rings, labels=new, baselines=False)
    assert (facts["users"], facts["unknown_test_targets"], facts["metrics"]["recall@10"]["value"]) == (14, 14, 0)
    assert "14 are items unknown to the model, and count as misses." in facts["conditions"]


def test_seen_items_are_left_out_only_where_ids_coincide_and_only_when_asked(fit: Fit) -> None:
    same = pa.table({"user_id": list(range(90)), "item_id": [f"{KINDS[user % 3]}{user % 6}" for user in range(90)]})
    model = fit(labels=same, epochs=2)
    everything, _ = model.recommend([["a0", "a3", "zzz"]], k=50)
    unseen, _ = model.recommend([["a0", "a3", "zzz"]], k=50, filter_seen=True)
    assert set(everything[0]) - set(unseen[0]) == {"a0", "a3"}
    assert UNK not in model.targets.indices(everything[0])


def test_a_probe_and_a_random_start(fit: Fit, encoder: UserEncoder, other_encoder: UserEncoder) -> None:
    probe = fit(mode="probe", epochs=1)
    own = probe.encoder.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in encoder.state_dict().items())
    one, other = fit(encoder, mode="scratch", epochs=1), fit(other_encoder, mode="scratch", epochs=1)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert one.facts["system"] == "clue_zero"


def test_head_and_targets_of_different_models_are_refused(saved: Path, tmp_path: Path) -> None:
    model = load_fitted(saved)
    assert isinstance(model, ColdStartModel)
    model.save_pretrained(tmp_path / "copy")
    assert load_fitted(tmp_path / "copy").facts == model.facts
    Vocabulary.from_ids(["x", "y"]).save(tmp_path / "copy" / "targets.parquet")
    manifest = read_manifest(tmp_path / "copy", "fitted", "")
    write_json(tmp_path / "copy" / MANIFEST, {**manifest, "files": file_hashes(tmp_path / "copy")})
    with pytest.raises(ArtifactError, match=r"the head scores 17 targets, targets.parquet numbers 6; they are of different models"):
        load_fitted(tmp_path / "copy")


def test_wrong_splits_and_labels_are_refused(fit: Fit) -> None:
    with pytest.raises(UsageError, match=r"unknown split time for cold-start; known: user, instance"):
        fit(split="time")
    with pytest.raises(UsageError, match=r"cold-start needs --labels FILE with the columns user_id and item_id"):
        fit(labels=None)
    with pytest.raises(DataError, match=r"none of the users of 1 targets is among the 90 users of .*targets have 'u1', the dataset 0"):
        fit(labels=pa.table({"user_id": ["u1"], "item_id": ["x"]}))
    with pytest.raises(DataError, match="three are the fewest"):
        fit(labels=pa.table({"user_id": [1, 2], "item_id": ["x", "y"]}))
    with pytest.raises(UsageError, match=r"max_targets: .*greater than or equal to 1"):
        fit(max_targets=0)
