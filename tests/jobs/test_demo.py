"""The demo on its real data, with one epoch of everything in place of the usual ones."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.errors import UsageError
from userclue.jobs import demo as demo_job
from userclue.jobs.demo import demo
from userclue.tasks.registry import load_fitted
from userclue.train.journal import Row, Watch


@pytest.mark.slow
def test_a_short_demo_leaves_everything_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_job, "PRETRAIN", {**demo_job.PRETRAIN, "epochs": 1, "dim": 16, "blocks": 1, "heads": 2, "max_len": 20})
    monkeypatch.setattr(demo_job, "FITS", {name: {**choice, "epochs": 1, "batch_size": 256} for name, choice in demo_job.FITS.items()})
    lines: list[str] = []
    rows: list[Row] = []
    out = tmp_path / "runs" / "demo"
    facts = demo(out, lines.append, Watch(row=rows.append), seed=1)
    assert {path.name for path in out.iterdir()} == {
        "data", "events.parquet", "high-spender", "high-spender.csv", "items.parquet", "manifest.json", "model", "next-item",
        "report.html", "users.parquet",
    }  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["demo"]
    assert [line.split()[0] for line in lines] == ["1/5", "2/5", "3/5", "3/5", "4/5", "5/5"]
    assert rows
    assert facts.keys() == {"high-spender", "next-item"}
    json.dumps(facts, allow_nan=False)
    assert facts["high-spender"]["classes"] == ["high spender", "low spender"]
    assert facts["high-spender"]["users"] == facts["high-spender"]["split"]["test"] == 352
    assert {"majority", "bag_of_items", "bag_of_items_window", "clue_zero"} <= facts["high-spender"]["baselines"].keys()
    assert {"popularity", "markov", "item_knn"} <= facts["next-item"]["baselines"].keys()
    for name, found in facts.items():
        assert found["warnings"] == []
        assert load_fitted(out / name).facts["settings"]["seed"] == 1
    dataset = Dataset.open(out / "data")
    dataset.verify()
    bought = pq.read_table(out / "events.parquet", columns=["item_id"])["item_id"].unique()
    assert (dataset.n_users, dataset.n_items) == (2349, len(bought))
    assert "department" in dataset.vocabulary.table.column_names
    users = pq.read_table(out / "users.parquet")
    assert users.num_rows == 2349
    assert users["embedding"].type.list_size == UserEncoder.from_pretrained(out / "model").config.dim == 16
    page = (out / "report.html").read_text()
    assert "userclue demo" in page
    assert "high-spender" in page
    assert ".partial" not in page
    assert f"userclue embed {out / 'model'} EVENTS_OR_DATASET" in page
    with pytest.raises(UsageError, match="already exists"):
        demo(out, lines.append, Watch())
