"""--json: exactly one object on standard output, with what DESIGN section 2 promises; no NaN, and numbers that agree with the files."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from userclue.version import VERSION

SHARED = {"command", "version", "seed", "seconds", "output", "warnings"}
OWN = {
    "audit": {"findings", "would_drop"},
    "prepare": {"events_read", "events_kept", "events_dropped", "events_quarantined", "users", "items"},
    "pretrain": {"objective", "backbone", "steps", "loss", "std_sqrt_d", "effective_rank", "users_per_second", "collapsed"},
    "profile": {"task", "mode", "split", "users", "metrics", "baselines", "verdict", "trained_parameters", "total_parameters"},
    "cold": {"task", "mode", "split", "users", "instances", "by_user", "metrics", "baselines", "verdict", "untrained_test_targets"},
    "next": {"task", "mode", "split", "users", "metrics", "baselines", "verdict", "trained_parameters", "total_parameters"},
    "evaluate": {"task", "mode", "split", "users", "metrics", "baselines", "verdict"},
    "embed": {"users", "dim", "unknown_items", "users_per_second"},
    "report": {"runs", "bytes"},
    "doctor": {"machine", "versions", "verified"},
}
COMMAND = {"profile": "finetune", "cold": "finetune", "next": "finetune"}


@pytest.mark.parametrize("name", OWN)
def test_one_object_with_the_promised_fields(shop: Any, name: str) -> None:
    said = shop.said[name].json
    assert said.keys() >= SHARED | OWN[name]
    assert (said["command"], said["version"]) == (COMMAND.get(name, name), VERSION)
    assert said["seconds"] >= 0
    assert said["warnings"] == [] or name == "pretrain"
    assert shop.said[name].out.count("\n") == 1
    assert "Traceback" not in shop.said[name].err


def test_seed_and_output(shop: Any) -> None:
    assert shop.said["pretrain"].json["seed"] == 3
    assert shop.said["profile"].json["seed"] == shop.said["evaluate"].json["seed"] == 0
    for name, output in (("prepare", "data"), ("pretrain", "model"), ("embed", "users.parquet"), ("report", "report.html")):
        assert shop.said[name].json["output"] == str(shop[output])


def test_prepare_balances(shop: Any) -> None:
    said = shop.said["prepare"].json
    assert said["events_read"] == len(shop["events.csv"].read_text().splitlines()) - 1
    assert said["events_read"] == said["events_kept"] + sum(said["events_dropped"].values()) + said["events_quarantined"]
    assert isinstance(said["events_dropped"], dict)
    assert (said["users"], said["items"]) == (60, 18)


def test_pretrain_agrees_with_the_artifact(shop: Any) -> None:
    said = shop.said["pretrain"].json
    last = json.loads((shop["model"] / "metrics.jsonl").read_text().splitlines()[-1])
    assert (said["objective"], said["backbone"], said["collapsed"]) == ("clue", "transformer", False)
    assert said["steps"] == last["step"] == 4
    for name in ("loss", "std_sqrt_d", "effective_rank", "alignment", "uniformity"):
        assert said[name] == last[name]
    assert -1 <= said["loss"] <= 1
    assert 0 < said["std_sqrt_d"] < 1.1
    assert 1 <= said["effective_rank"] <= 16
    assert said["users_per_second"] > 0


@pytest.mark.parametrize("name", ["profile", "next", "evaluate"])
def test_metrics_and_baselines_have_values_and_intervals(shop: Any, name: str) -> None:
    said = shop.said[name].json
    profiling = name != "next"
    names = {"accuracy", "macro_f1", "auroc"} if profiling else {"mrr@10", "recall@10", "ndcg@10"}
    plain = {"majority", "bag_of_items"} if profiling else {"popularity", "markov", "item_knn"}
    assert said["task"] == ("profiling" if profiling else "sequential")
    assert said["mode"] == "finetune"
    assert said["split"] == ("80/5/15" if profiling else "leave-one-out")
    assert said["users"] == (9 if profiling else 60)
    assert said["baselines"].keys() >= plain
    for metrics in (said["metrics"], *said["baselines"].values()):
        assert metrics.keys() == names
        for value in metrics.values():
            assert value.keys() == {"value", "low", "high"}
            assert 0 <= value["low"] <= value["value"] <= value["high"] <= 1


def test_cold_start_names_its_units_and_its_candidates(shop: Any) -> None:
    said = shop.said["cold"].json
    assert (said["task"], said["split"], said["users"], said["target_items"]) == ("cold-start", "user", 9, 6)
    assert said["instances"] == said["split_sizes"]["test"] > 9
    for view in (said, said["by_user"]):
        assert view["baselines"].keys() == {"popularity", "item_knn", "item_knn_window", "user_knn"}
        for metrics in (view["metrics"], *view["baselines"].values()):
            assert metrics.keys() == {"mrr@10", "recall@10", "ndcg@10"}
            assert all(0 <= one["low"] <= one["value"] <= one["high"] <= 1 for one in metrics.values())
    assert "averaged over instances, 95 % bootstrap intervals over users" in said["conditions"]


def test_evaluate_repeats_what_finetune_said(shop: Any) -> None:
    said, before = shop.said["evaluate"].json, shop.said["profile"].json
    for name in ("metrics", "baselines", "differences", "verdict", "users", "split", "split_sizes", "conditions", "label"):
        assert said[name] == before[name], name


def test_finetune_says_what_task_json_holds(shop: Any) -> None:
    for name in ("profile", "cold", "next"):
        facts = json.loads((shop[name] / "task.json").read_text())
        said = shop.said[name].json
        for key in ("metrics", "baselines", "verdict", "users", "task", "mode", "conditions"):
            assert said[key] == facts[key], key


def test_embed_agrees_with_the_file(shop: Any) -> None:
    said = shop.said["embed"].json
    table = pq.read_table(shop["users.parquet"])
    assert (said["users"], said["dim"], said["unknown_items"]) == (table.num_rows, 16, 0)
    assert table["embedding"].type.list_size == 16


def test_warnings_stand_in_the_object_and_not_on_standard_error(run: Callable[..., Any], shop: Any, tmp_path: Any) -> None:
    (tmp_path / "new.csv").write_text("user_id,item_id,timestamp\n1,zzz,1700000000\n2,a0,1700000000\n")
    words = ["embed", shop["model"], tmp_path / "new.csv", "-o", tmp_path / "users.parquet", "--overwrite"]
    outcome = run(*words, "--json")
    assert "1 of 2 users have only items" in outcome.json["warnings"][0]
    assert outcome.json["unknown_items"] == 1
    readable = run(*words)
    assert "warning: 1 of 2 users have only items" in readable.err
    assert "warning:" not in readable.out
    assert len([line for line in readable.err.splitlines() if line.startswith("warning: ")]) == 1
