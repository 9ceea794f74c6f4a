"""Item attributes through the jobs: prepare, pre-train, resume, save, transfer, and items that came later."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from userclue.data.prepare import prepare
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.errors import Interrupted, UsageError
from userclue.jobs.finetune import finetune
from userclue.jobs.pretrain import pretrain, pretrain_settings, run_pretraining
from userclue.tasks.registry import load_fitted
from userclue.train.journal import Watch

ITEMS = [f"{ring}{place}" for ring in "abc" for place in range(6)]
ATTRIBUTES = pa.table(
    {
        "item_id": ITEMS,
        "ring": [item[0] for item in ITEMS],
        "places": [[item[1], "even" if int(item[1]) % 2 == 0 else "odd"] for item in ITEMS],
        "price": [float(item[1]) if item != "b3" else None for item in ITEMS],
        "text": pa.array([[float(ord(item[0])), 1.0] for item in ITEMS], pa.list_(pa.float32(), 2)),
    }
)
READ = {"attributes": "ring,places,price,text"}


@pytest.fixture(scope="module")
def described(make_log: Any, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(make_log(), tmp_path_factory.mktemp("described") / "data", items=ATTRIBUTES, threads=1)


@pytest.mark.parametrize("mix", ["sum", "gate"])
@pytest.mark.parametrize("objective", ["clue", "byol", "next", "s3rec"])
def test_training_repeats_itself_and_saves(described: Dataset, small: dict[str, Any], tmp_path: Path, mix: str, objective: str) -> None:
    settings = {**small, **READ, "attribute_mix": mix, "objective": objective, "steps": 12, "log_every": 1, "lr": 0.01}
    encoder = pretrain(described, tmp_path / "model", **settings)
    losses = [row["loss"] for row in encoder.rows]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert [row["loss"] for row in pretrain(described, **settings).rows] == losses
    loaded = UserEncoder.from_pretrained(tmp_path / "model")
    assert loaded.config.attributes == ("ring", "places", "price", "text")
    assert np.array_equal(loaded.encode(described), encoder.encode(described))


@pytest.mark.parametrize("updates", ["dense", "lazy-adam"])
def test_an_interrupted_run_ends_with_the_same_bits(described: Dataset, small: dict[str, Any], tmp_path: Path, updates: str) -> None:
    settings = pretrain_settings(steps=7, log_every=1, attribute_mix="gate", item_updates=updates, **READ, **small)
    run_pretraining(described, settings, tmp_path / "whole")
    watch = Watch(row=lambda row: signal.raise_signal(signal.SIGINT) if row["step"] == 4 else None)
    with pytest.raises(Interrupted):
        run_pretraining(described, settings, tmp_path / "torn", watch=watch)
    run_pretraining(described, settings, tmp_path / "torn", resume=True)
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "torn")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("head", ["linear", "tied"])
def test_transfer_reads_them_too(described: Dataset, small: dict[str, Any], tmp_path: Path, head: str) -> None:
    encoder = pretrain(described, objective="next", steps=20, **READ, **small)
    fitted = finetune(encoder, described, tmp_path / "fitted", task="sequential", head=head, epochs=1, baselines=False)
    again = load_fitted(tmp_path / "fitted")
    ask = [["a1", "a2"], ["b3"]]
    for one, other in zip(fitted.recommend(ask), again.recommend(ask), strict=True):  # type: ignore[attr-defined]
        assert np.array_equal(one, other)
    if head == "tied":
        weight = fitted.head.weight
        assert not np.allclose(weight.detach(), fitted.encoder.embedding.items.weight.detach())
        assert np.array_equal(weight.detach(), fitted.encoder.embedding.table().detach())


def test_s3rec_is_fitted_from_the_past_alone(described: Dataset, small: dict[str, Any], tmp_path: Path) -> None:
    """Pre-trained in both directions, fine-tuned causally with the same weights, as in the paper."""
    encoder = pretrain(described, tmp_path / "model", objective="s3rec", predicted_attributes="ring,places", steps=20, log_every=5, **small)
    assert {"aap_loss", "mip_loss", "map_loss", "sp_loss"} <= encoder.rows[-1].keys()
    assert encoder.config.causal is False
    assert encoder.config.attributes == ()
    with pytest.raises(UsageError, match=r"positions=all .* fit it with --causal"):
        finetune(encoder, described, task="sequential", positions="all", epochs=1, baselines=False)
    settings = {"task": "sequential", "head": "tied", "positions": "all", "causal": True, "baselines": False, "with_scratch": True}
    fitted = finetune(encoder, described, tmp_path / "fitted", lr=1e-30, epochs=1, **settings)
    assert fitted.encoder.config.causal
    assert fitted.facts["trained_baselines"]["clue_zero"]["encoder"]["causal"]  # the same network from a random start
    for (name, before), after in zip(encoder.state_dict().items(), fitted.encoder.state_dict().values(), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6, err_msg=name)
    assert load_fitted(tmp_path / "fitted").encoder.config.causal
    follow_up = pretrain(described, objective="next", init=encoder, steps=1, **small)
    assert follow_up.config.causal


def test_s3rec_without_attributes_says_so(described: Dataset, small: dict[str, Any]) -> None:
    settings = pretrain_settings(objective="s3rec", steps=1, **small)
    assert "only MIP and SP are minimised" in run_pretraining(described, settings).warnings[0]
    hybrid = pretrain_settings(objective="hybrid", objectives="clue:1,s3rec:1", steps=1, **small)
    assert "only MIP and SP are minimised" in run_pretraining(described, hybrid).warnings[0]


def test_attributes_that_are_not_there_are_named(shop: Dataset, described: Dataset, small: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match='the vocabulary has no item attribute "colour"; it has ring, places, price, text'):
        pretrain(described, attributes=["ring", "colour"], steps=1, **small)
    with pytest.raises(UsageError, match='no item attribute "ring"; it has none; give some to prepare with items'):
        pretrain(shop, attributes="ring", steps=1, **small)
    with pytest.raises(UsageError, match="write the names of columns, each once, as brand,price"):
        pretrain(described, attributes="ring,ring", steps=1, **small)


def test_a_catalogue_that_grew(described: Dataset, small: dict[str, Any], make_log: Any, tmp_path: Path) -> None:
    """New items at once by their attributes; or a grown dataset and more training, which begins where the first ended."""
    pretrain(described, tmp_path / "model", steps=10, **READ, **small)
    encoder = UserEncoder.from_pretrained(tmp_path / "model")
    new = pa.table({"item_id": ["d1", "d2"], "ring": ["a", "a"], "places": [["1", "odd"]] * 2, "price": [1.0, 1.0]})
    pq.write_table(new, tmp_path / "new.parquet")
    grown = encoder.with_items(tmp_path / "new.parquet")
    one, same, unknown = grown.encode([["a1", "d1"], ["a1", "d2"], ["a1", "d3"]])
    np.testing.assert_allclose(one, same, atol=1e-6)
    assert np.abs(one - unknown).max() > 1e-3

    log = make_log()
    more = pa.table({"user_id": [0, 1], "item_id": ["d1", "d2"], "timestamp": [1_800_000_000, 1_800_000_000]})
    data = prepare(
        pa.concat_tables([log, more]),
        tmp_path / "data",
        vocabulary=tmp_path / "model",
        grow=True,
        items=tmp_path / "new.parquet",
        threads=1,
    )
    begun = pretrain(data, init=encoder, steps=1, lr=1e-30, **READ, **small)
    ask = [["a1", "b2", "c3"], ["b3", "b4"]]
    np.testing.assert_allclose(begun.encode(ask), encoder.encode(ask), atol=1e-5)
