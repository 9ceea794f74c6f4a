"""Trained baselines in the comparison: named, fitted under the same budget, and every figure follows from the predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from userclue.baselines.registry import BASELINES
from userclue.data.prepare import prepare
from userclue.data.store import Dataset
from userclue.errors import UsageError
from userclue.jobs.finetune import evaluate, finetune
from userclue.jobs.pretrain import pretrain
from userclue.report.page import build_report
from userclue.report.wording import SYSTEMS
from userclue.tasks.registry import load_fitted

PRETRAINED = {"peterrec", "peterrec_adapter", "s3rec"}
FAST = {"steps": 12, "lr": 0.02, "batch_size": 32}
PLAIN = {
    "profiling": {"majority", "bag_of_items", "bag_of_items_window"},
    "sequential": {"popularity", "markov", "item_knn", "item_knn_window"},
    "cold-start": {"popularity", "item_knn", "item_knn_window", "user_knn"},
}


@pytest.fixture(scope="module")
def given(labels: pa.Table) -> dict[str, Any]:
    goods = pa.table(
        {"user_id": [user for user in range(90) for _ in "12"], "item_id": [f"{user % 3}-{good}" for user in range(90) for good in "12"]}
    )
    return {"profiling": {"labels": labels}, "sequential": {}, "cold-start": {"labels": goods}}


@pytest.mark.parametrize("task", list(PLAIN))
def test_all_baselines_stand_in_one_table(model: Path, shop: Dataset, given: dict[str, Any], tmp_path: Path, task: str) -> None:
    fitted = finetune(model, shop, tmp_path / "fitted", task=task, baselines="all", **given[task], **FAST)
    facts = load_fitted(tmp_path / "fitted").facts
    trained = {name for name, kind in BASELINES.items() if task in kind.tasks}
    assert set(facts["baselines"]) == set(facts["differences"]) == trained | PLAIN[task]
    assert set(facts["trained_baselines"]) == trained
    assert all(one["steps"] == 12 for one in facts["trained_baselines"].values())
    assert all(("pretrain" in one) == (name in PRETRAINED) for name, one in facts["trained_baselines"].items())
    assert "under the same budget (12 steps at most" in facts["conditions"]
    assert "peterrec, peterrec_adapter, s3rec: pre-trained under the budget" in facts["conditions"]
    table = pq.read_table(tmp_path / "fitted" / "predictions.parquet")
    for name in trained:
        if task == "profiling":
            right = np.array(table[f"predicted_{name}"].to_pylist()) == np.array(table["label"].to_pylist())
            assert facts["baselines"][name]["accuracy"]["value"] == pytest.approx(right.mean(), abs=1e-12)
        else:
            ranks = table[f"rank_{name}"].to_numpy()
            assert facts["baselines"][name]["mrr@10"]["value"] == pytest.approx(np.where(ranks <= 10, 1 / ranks, 0).mean(), abs=1e-12)
    assert fitted.facts["baselines"] == facts["baselines"]
    build_report([tmp_path / "fitted"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(SYSTEMS[name] in page for name in trained)


def test_evaluate_says_which_baselines_it_leaves_out(model: Path, shop: Dataset, tmp_path: Path) -> None:
    finetune(model, shop, tmp_path / "fitted", task="sequential", baselines="plain,sasrec,s3rec", **FAST)
    fitted = load_fitted(tmp_path / "fitted")
    found = evaluate(fitted, shop)
    assert set(found["baselines"]) == PLAIN["sequential"]
    (said,) = [one for one in found["warnings"] if one.startswith("left out here: s3rec, sasrec; ")]
    assert said.endswith("fit again: userclue finetune … --baselines plain,s3rec,sasrec")
    assert not any("left out" in one for one in evaluate(fitted, shop, baselines=False)["warnings"])


def test_named_ones_alone_and_the_same_figures_in_any_company(model: Path, shop: Dataset) -> None:
    alone = finetune(model, shop, task="sequential", baselines="sasrec", **FAST).facts
    among = finetune(model, shop, task="sequential", baselines="gru4rec,sasrec", **FAST).facts
    assert list(alone["baselines"]) == ["sasrec"]
    assert list(among["baselines"]) == ["sasrec", "gru4rec"]
    assert alone["baselines"]["sasrec"] == among["baselines"]["sasrec"]
    assert alone["metrics"] == among["metrics"]


def test_clue_zero_is_named_or_asked_for_but_once_and_never_beside_itself(model: Path, shop: Dataset) -> None:
    named = finetune(model, shop, task="sequential", baselines="clue_zero", **FAST).facts
    asked = finetune(model, shop, task="sequential", baselines="none", with_scratch=True, **FAST).facts
    both = finetune(model, shop, task="sequential", baselines="clue_zero", with_scratch=True, **FAST).facts
    alone = finetune(model, shop, task="sequential", baselines="clue_zero", mode="scratch", **FAST).facts
    assert named["baselines"] == asked["baselines"] == both["baselines"] == {"clue_zero": alone["metrics"]}
    assert alone["baselines"] == {}


def test_a_wrong_name_is_refused_before_anything_runs(model: Path, shop: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown baseline sasrek; known: plain, all, none, "):
        finetune(model, shop, tmp_path / "fitted", task="sequential", baselines="sasrek")
    assert not list(tmp_path.iterdir())


def test_peterrec_reads_the_item_attributes_that_the_model_reads(
    make_log: Any, small: dict[str, Any], shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [f"{ring}{place}" for ring in "abc" for place in range(6)]
    table = pa.table({"item_id": items, "ring": [item[0] for item in items]})
    described = prepare(make_log(), tmp_path / "data", items=table, threads=1)
    encoder = pretrain(described, attributes="ring", steps=5, **small)
    facts = finetune(encoder, described, task="sequential", baselines="peterrec,peterrec_adapter,s3rec,sasrec", **FAST).facts
    read = {name: one["encoder"]["attributes"] for name, one in facts["trained_baselines"].items()}
    assert read == {"peterrec": ("ring",), "peterrec_adapter": ("ring",), "s3rec": (), "sasrec": ()}
    assert facts["trained_baselines"]["s3rec"]["pretrain"]["predicted_attributes"] == ["ring"]
    monkeypatch.setattr("userclue.jobs.finetune.fit_model", None)  # refused before that
    with pytest.raises(UsageError, match='the vocabulary has no item attribute "ring"; it has none'):
        finetune(encoder, shop, task="sequential", baselines="peterrec", **FAST)


@pytest.mark.parametrize("objective", ["s3rec", "hybrid"])
def test_s3rec_stands_beside_models_of_other_pretraining(shop: Dataset, small: dict[str, Any], tmp_path: Path, objective: str) -> None:
    encoder = pretrain(shop, tmp_path / "model", objective=objective, steps=5, **small)
    facts = finetune(encoder, shop, task="sequential", baselines="s3rec", **FAST).facts
    assert facts["system"] == {"s3rec": "s3rec_finetuned", "hybrid": "hybrid"}[objective]
    assert list(facts["baselines"]) == ["s3rec"]
    assert facts["trained_baselines"]["s3rec"]["pretrain"]["steps"] == 5
