"""Fine-tuning as a job: reproducible, and every figure in task.json can be worked out again from the predictions beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from userclue.baselines.plain_cold_start import COLD_START_BASELINES
from userclue.baselines.plain_profiling import PROFILING_BASELINES
from userclue.baselines.plain_ranking import RANKING_BASELINES
from userclue.baselines.registry import BASELINES
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.errors import ArtifactError, UsageError
from userclue.jobs.finetune import evaluate, finetune, system_name
from userclue.jobs.pretrain import pretrain, pretrain_settings
from userclue.objectives.registry import OBJECTIVES
from userclue.tasks.base import FittedModel
from userclue.tasks.registry import load_fitted

FAST = {"epochs": 3, "lr": 0.02, "batch_size": 32}
Fit = Callable[..., FittedModel]


@pytest.fixture(scope="module")
def fit(model: Path, shop: Dataset, labels: pa.Table) -> Fit:
    def run(task: str, out: Path | None = None, **settings: Any) -> FittedModel:
        given = {"labels": labels} if task == "profiling" else {}
        return finetune(model, shop, out, task=task, **{**given, **FAST, **settings})

    return run


@pytest.fixture(scope="module")
def profile(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile") / "fitted"
    fit("profiling", folder, with_scratch=True)
    return folder


@pytest.fixture(scope="module")
def next_item(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("next") / "fitted"
    fit("sequential", folder, with_scratch=True)
    return folder


def facts_of(folder: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in task.json")

    facts: dict[str, Any] = json.loads((folder / "task.json").read_text(), parse_constant=refuse)
    return facts


def steady(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in ("seconds",)}


@pytest.mark.parametrize("task", ["profiling", "sequential"])
def test_same_seed_same_bits_and_metrics_and_another_seed_others(fit: Fit, tmp_path: Path, task: str) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        fit(task, tmp_path / name, seed=seed)
    for name in ("model.safetensors", "head.safetensors", "predictions.parquet"):
        one, again, other = ((tmp_path / run / name).read_bytes() for run in ("one", "again", "other"))
        assert one == again, name
        assert one != other, name
    assert steady(facts_of(tmp_path / "one")) == steady(facts_of(tmp_path / "again"))
    assert facts_of(tmp_path / "one")["metrics"] != facts_of(tmp_path / "other")["metrics"]


def test_profiling_figures_follow_from_the_predictions(profile: Path) -> None:
    facts = facts_of(profile)
    table = pq.read_table(profile / "predictions.parquet")
    assert table.num_rows == facts["users"] == facts["split"]["test"]
    label = np.array(table["label"].to_pylist())
    systems = {facts["system"]: facts["metrics"], **facts["baselines"]}
    assert set(systems) == {"clue", "clue_zero", "majority", "bag_of_items", "bag_of_items_window"}
    assert {name.removeprefix("predicted_") for name in table.column_names if name.startswith("predicted_")} == set(systems)
    for system, metrics in systems.items():
        predicted = np.array(table[f"predicted_{system}"].to_pylist())
        assert metrics["accuracy"]["value"] == pytest.approx((predicted == label).mean(), abs=1e-12), system
        scores = []
        for kind in np.union1d(label, predicted):
            hits = ((predicted == kind) & (label == kind)).sum()
            scores.append(2 * hits / ((predicted == kind).sum() + (label == kind).sum()))
        assert metrics["macro_f1"]["value"] == pytest.approx(np.mean(scores), abs=1e-12), system
    parts = pq.read_table(profile / "split.parquet")
    tested = parts.filter(pa.compute.equal(parts["part"], "test"))["user_id"].to_pylist()
    assert sorted(tested) == sorted(table["user_id"].to_pylist())
    assert len(set(parts["user_id"].to_pylist())) == parts.num_rows == 90


def test_ranking_figures_follow_from_the_ranks(next_item: Path, shop: Dataset) -> None:
    facts = facts_of(next_item)
    table = pq.read_table(next_item / "predictions.parquet")
    assert table.num_rows == facts["users"] == shop.n_users
    for view, prefix in ((facts, "rank_"), (facts["unseen"], "rank_unseen_")):
        systems = {facts["system"]: view["metrics"], **view["baselines"]}
        assert set(systems) == {"clue", "clue_zero", "popularity", "markov", "item_knn", "item_knn_window"}
        for system, metrics in systems.items():
            ranks = table[f"{prefix}{system}"].to_numpy()
            hit = ranks <= 10
            place = np.where(hit, ranks, 1)
            assert metrics["mrr@10"]["value"] == pytest.approx((hit / place).mean(), abs=1e-12), system
            assert metrics["recall@10"]["value"] == pytest.approx(hit.mean(), abs=1e-12), system
            assert metrics["ndcg@10"]["value"] == pytest.approx((hit / np.log2(1 + place)).mean(), abs=1e-12), system
    last = [shop.vocabulary.ids(shop.sequences()[place][-1:])[0].as_py() for place in range(shop.n_users)]
    assert table["target"].to_pylist() == last
    assert table["user_id"].to_pylist() == shop.users.to_pylist()


def test_the_saved_model_gives_the_ranks_that_were_written(next_item: Path, shop: Dataset) -> None:
    """The model's own rank of each target, worked out again in float64 from the folder: ties count against it."""
    model = load_fitted(next_item)
    histories = shop.sequences().drop_last(1)
    scores = model.scores(histories).astype(np.float64)
    scores[:, :4] = -np.inf
    targets = shop.items[shop.offsets[1:] - 1]
    own = scores[np.arange(shop.n_users), targets]
    ranks = (scores >= own[:, None]).sum(axis=1)
    table = pq.read_table(next_item / "predictions.parquet")
    np.testing.assert_array_equal(table["rank_clue"].to_numpy(), ranks)


@pytest.mark.parametrize("name", ["profile", "next_item"])
def test_task_json_holds_the_comparison_whole(name: str, request: pytest.FixtureRequest) -> None:
    facts = facts_of(request.getfixturevalue(name))
    assert facts["verdict"]
    assert all(isinstance(sentence, str) and sentence.endswith(".") for sentence in facts["verdict"])
    assert facts["conditions"]
    assert facts["seconds"] > 0
    assert facts["data"]["path"] == "data"
    for metrics in (facts["metrics"], *facts["baselines"].values()):
        assert metrics.keys() == facts["metrics"].keys()
        for value in metrics.values():
            assert value.keys() == {"value", "low", "high"}
            assert value["low"] <= value["value"] <= value["high"]
    for system, differences in facts["differences"].items():
        for metric, gap in differences.items():
            expected = facts["metrics"][metric]["value"] - facts["baselines"][system][metric]["value"]
            assert gap["value"] == pytest.approx(expected, abs=1e-12)


def test_the_map_is_of_test_users_before_any_label_was_seen(profile: Path, model: Path, shop: Dataset) -> None:
    table = pq.read_table(profile / "map.parquet")
    assert table.column_names == ["user_id", "x", "y", "label"]
    vectors = UserEncoder.from_pretrained(model).encode(shop)
    chosen = vectors[shop.user_positions(table["user_id"])]
    points = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    centred = chosen - chosen.mean(axis=0)
    # Distances on the map are those of the two strongest directions, so never longer than in the whole space.
    assert (np.linalg.norm(points, axis=1) <= np.linalg.norm(centred, axis=1) + 1e-4).all()


def test_baselines_can_be_left_out(fit: Fit) -> None:
    facts = fit("profiling", baselines=False, epochs=1).facts
    assert facts["baselines"] == facts["differences"] == {}
    assert "no baseline was run" in facts["verdict"][0]


def test_early_stopping_keeps_the_best_epoch(fit: Fit) -> None:
    model = fit("profiling", baselines=False, epochs=40, patience=2, min_epochs=1, lr=0.2)
    losses = [row["valid_loss"] for row in model.rows if "valid_loss" in row]
    assert model.facts["best_epoch"] == int(np.argmin(losses))
    assert len(losses) <= model.facts["best_epoch"] + 3
    assert len(losses) < 40


@pytest.mark.parametrize("task", ["profiling", "sequential"])
def test_a_diverging_fit_stops_with_a_remedy(fit: Fit, tmp_path: Path, task: str) -> None:
    with pytest.raises(UsageError, match=r"loss is .*; lower lr or set clip_norm"):
        fit(task, tmp_path / "fitted", lr=1e30, epochs=20, patience=1, min_epochs=1)
    assert not list(tmp_path.iterdir())


def test_dropout_of_its_own_is_written_with_the_model(fit: Fit, tmp_path: Path) -> None:
    fit("profiling", tmp_path / "fitted", dropout=0.35, epochs=1, baselines=False)
    assert load_fitted(tmp_path / "fitted").encoder.config.dropout == 0.35


def test_the_encoder_of_a_fitted_model_can_be_used_and_fitted_again(profile: Path, shop: Dataset, labels: pa.Table) -> None:
    encoder = UserEncoder.from_pretrained(profile)
    assert encoder.encode(shop).shape == (90, 16)
    again = finetune(encoder, shop, task="sequential", epochs=1, baselines=False)
    assert again.facts["task"] == "sequential"


def test_a_model_of_another_catalogue_reads_what_it_does_not_know_as_unknown(
    shop: Dataset, labels: pa.Table, make_log: Callable[..., pa.Table], small: dict[str, Any], tmp_path: Path
) -> None:
    from userclue.data.prepare import prepare

    log = make_log()
    few = log.filter(pa.compute.starts_with(log["item_id"], "a"))
    encoder = pretrain(prepare(few, tmp_path / "few", threads=1), epochs=1, **small)
    fitted = finetune(encoder, shop, task="profiling", labels=labels, epochs=1, baselines=False)
    assert fitted.facts["users"] == 14


def test_an_existing_folder_is_refused_before_the_training(fit: Fit, profile: Path) -> None:
    before = {path.name: path.read_bytes() for path in profile.iterdir()}
    with pytest.raises(UsageError, match="already exists; choose another output or add --overwrite"):
        fit("profiling", profile)
    assert {path.name: path.read_bytes() for path in profile.iterdir()} == before


def test_a_pre_trained_model_is_no_fitted_one(model: Path) -> None:
    with pytest.raises(ArtifactError, match="is a userclue model, not a fitted"):
        load_fitted(model)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "profilng"}, "unknown task profilng; known: profiling, cold-start, sequential"),
        ({"task": "sequential", "mode": "adaptr"}, "mode: .*(given: 'adaptr')"),
        ({"task": "sequential", "preset": "bst"}, "unknown preset bst; known: paper"),
        ({"task": "sequential", "head": "big"}, "head: "),
        ({"task": "sequential", "train_fraction": 0}, "train_fraction: "),
    ],
)
def test_wrong_choices_are_refused(model: Path, shop: Dataset, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        finetune(model, shop, tmp_path / "out", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("objective", "mode", "name"),
    [
        ("clue", "finetune", "clue"),
        ("clue", "probe", "clue_frozen"),
        ("vicreg", "adapter", "vicreg_adapter"),
        ("hybrid", "finetune", "hybrid"),
        ("infonce", "scratch", "clue_zero"),
        ("s3rec", "finetune", "s3rec_finetuned"),
        ("s3rec", "probe", "s3rec_frozen"),
        (None, "finetune", "clue_zero"),
        (None, "probe", "clue_zero_frozen"),
    ],
)
def test_a_model_is_called_by_its_pretraining_and_mode(shop: Dataset, small: dict[str, Any], objective: Any, mode: str, name: str) -> None:
    encoder = UserEncoder.new(pretrain_settings(**small).encoder(), shop.vocabulary, torch.Generator().manual_seed(0))
    encoder.facts = {} if objective is None else {"pretrain": {"objective": objective}}
    assert system_name(encoder, mode) == name


def test_no_model_is_called_as_a_baseline_is() -> None:
    for objective in OBJECTIVES:
        for mode in ("finetune", "probe", "adapter"):
            encoder = SimpleNamespace(facts={"pretrain": {"objective": objective}})
            assert system_name(encoder, mode) not in {*BASELINES, *PROFILING_BASELINES, *RANKING_BASELINES, *COLD_START_BASELINES}


def test_the_tables_name_the_objective(shop: Dataset, small: dict[str, Any], tmp_path: Path) -> None:
    encoder = pretrain(shop, objective="next", steps=5, **small)
    facts = finetune(encoder, shop, tmp_path / "fitted", task="sequential", baselines="clue_zero", steps=5).facts
    assert (facts["system"], set(facts["baselines"])) == ("next", {"clue_zero"})
    assert {"rank_next", "rank_clue_zero"} <= set(pq.read_table(tmp_path / "fitted" / "predictions.parquet").column_names)
    assert evaluate(load_fitted(tmp_path / "fitted"), shop)["system"] == "next"
    assert all("clue " not in sentence for sentence in facts["verdict"])
