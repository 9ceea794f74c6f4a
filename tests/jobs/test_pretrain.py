"""Pre-training as a job: the same seed gives the same bits, an interrupted run goes on bit-equal, and nothing half-made is left."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from userclue.artifact import Artifact
from userclue.data.prepare import prepare
from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.errors import ArtifactError, DataError, Interrupted, UsageError
from userclue.jobs.pretrain import pretrain, pretrain_settings, run_pretraining, visible
from userclue.train.journal import Row, Watch

Settings = dict[str, Any]


def test_another_objective_than_the_presets_takes_its_parts_away() -> None:
    assert pretrain_settings("best").parts() == {"infonce": 0.3, "next": 1.0}
    assert pretrain_settings("best", objective="infonce").objectives is None
    assert pretrain_settings("best", objectives="clue:1,next:1").parts() == {"clue": 1.0, "next": 1.0}
    with pytest.raises(UsageError, match="objectives belongs to objective=hybrid"):
        pretrain_settings("best", objective="infonce", objectives="clue:1")


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def steady_rows(folder: Path) -> list[Row]:
    """The logged rows without what a clock says."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "users_per_second")} for row in rows]


def interrupt_at(step: int) -> Watch:
    """Ctrl-C once the row of `step` was logged."""
    return Watch(row=lambda row: signal.raise_signal(signal.SIGINT) if row["step"] == step else None)


def test_same_seed_same_bits_and_another_seed_others(shop: Dataset, small: Settings, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        pretrain(shop, tmp_path / name, epochs=2, seed=seed, log_every=2, **small)
    assert weights(tmp_path / "one") == weights(tmp_path / "again")
    assert steady_rows(tmp_path / "one") == steady_rows(tmp_path / "again")
    assert Artifact.open(tmp_path / "one").hash == Artifact.open(tmp_path / "again").hash
    assert weights(tmp_path / "one") != weights(tmp_path / "other")
    assert (tmp_path / "one" / "vocabulary.parquet").read_bytes() == (tmp_path / "other" / "vocabulary.parquet").read_bytes()


def test_the_global_random_state_matters_not(shop: Dataset, small: Settings, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(1)
    pretrain(shop, tmp_path / "one", steps=3, **small)
    torch.manual_seed(2)
    pretrain(shop, tmp_path / "two", steps=3, **small)
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_an_interrupted_run_goes_on_bit_equal(shop: Dataset, small: Settings, tmp_path: Path, stop: int) -> None:
    settings = pretrain_settings(epochs=3, log_every=1, **small)  # 9 steps, 3 an epoch
    run_pretraining(shop, settings, tmp_path / "whole")
    with pytest.raises(Interrupted, match=f"stopped by SIGINT at step {stop}; state saved, go on with --resume"):
        run_pretraining(shop, settings, tmp_path / "torn", watch=interrupt_at(stop))
    assert [path.name for path in (tmp_path / "torn").iterdir()] == ["checkpoint"]
    result = run_pretraining(shop, settings, tmp_path / "torn", resume=True)
    assert result.steps == 9
    assert weights(tmp_path / "torn") == weights(tmp_path / "whole")
    assert steady_rows(tmp_path / "torn") == steady_rows(tmp_path / "whole")
    assert not (tmp_path / "torn" / "checkpoint").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"torn", "whole"}


def test_an_unfinished_run_is_no_model_and_is_not_trained_over(shop: Dataset, small: Settings, tmp_path: Path) -> None:
    settings = pretrain_settings(steps=4, log_every=1, **small)
    target = tmp_path / "torn"
    with pytest.raises(Interrupted):
        run_pretraining(shop, settings, target, watch=interrupt_at(2))
    with pytest.raises(ArtifactError, match="holds an unfinished training run; finish it with `userclue pretrain … --resume`"):
        UserEncoder.from_pretrained(target)
    with pytest.raises(UsageError, match="holds an interrupted run; add --resume to go on with it or --overwrite to start again"):
        run_pretraining(shop, settings, target)
    other = pretrain_settings(steps=4, log_every=1, lr=0.5, **small)
    with pytest.raises(UsageError, match=r"the interrupted run had lr=0.001, this one has 0.5; resume with the same settings"):
        run_pretraining(shop, other, target, resume=True)
    run_pretraining(shop, other, target, overwrite=True)
    run_pretraining(shop, other, tmp_path / "fresh")
    assert weights(target) == weights(tmp_path / "fresh")


def test_the_data_of_an_interrupted_run_must_be_the_same(
    shop: Dataset, small: Settings, make_log: Callable[..., pa.Table], tmp_path: Path
) -> None:
    settings = pretrain_settings(steps=4, log_every=1, **small)
    with pytest.raises(Interrupted):
        run_pretraining(shop, settings, tmp_path / "torn", watch=interrupt_at(2))
    other = prepare(make_log(seed=1), tmp_path / "data", threads=1)
    with pytest.raises(UsageError, match=r"this one has .*; resume with the same settings and data"):
        run_pretraining(other, settings, tmp_path / "torn", resume=True)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(shop: Dataset, small: Settings, tmp_path: Path) -> None:
    settings = pretrain_settings(steps=6, log_every=1, checkpoint_seconds=0, **small)
    run_pretraining(shop, settings, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run_pretraining(shop, settings, tmp_path / "torn", watch=interrupt_at(4))
    latest = sorted((tmp_path / "torn" / "checkpoint").glob("step-*"))[-1] / "state.safetensors"
    latest.write_bytes(latest.read_bytes()[:-100])
    result = run_pretraining(shop, settings, tmp_path / "torn", resume=True)
    assert any("this checkpoint is damaged" in warning for warning in result.warnings)
    assert weights(tmp_path / "torn") == weights(tmp_path / "whole")


def test_resuming_needs_something_to_resume(shop: Dataset, small: Settings, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no interrupted run to resume"):
        pretrain(shop, model, resume=True, steps=2, **small)
    pretrain(shop, tmp_path / "new", resume=True, steps=2, **small)  # nothing there yet: it begins
    assert (tmp_path / "new" / "manifest.json").exists()


def test_what_pre_training_may_see(shop: Dataset, small: Settings) -> None:
    lengths = shop.sequences().lengths
    np.testing.assert_array_equal(visible(shop, pretrain_settings(**small)).lengths, lengths - 2)
    np.testing.assert_array_equal(visible(shop, pretrain_settings(hold_out=0, **small)).lengths, lengths)
    with pytest.raises(DataError, match=r"no user has an event left to learn from \(hold_out 2, until 2001-01-01\)"):
        visible(shop, pretrain_settings(until="2001-01-01", **small))


def test_one_user_is_too_few_for_a_contrast(small: Settings, tmp_path: Path) -> None:
    lonely = pa.table({"user_id": [1, 1, 1], "item_id": ["a", "b", "c"], "timestamp": [1, 2, 3]})
    data = prepare(lonely, tmp_path / "data", threads=1)
    with pytest.raises(DataError, match=r"1 user\(s\) to learn from; clue needs at least 2"):
        pretrain(data, tmp_path / "model", **small)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_an_artifact_tells_where_it_comes_from(shop: Dataset, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    assert config["data"]["users"] == shop.n_users
    assert config["data"]["fingerprint"] == shop.manifest["files"]["items.npy"]["sha256"]
    assert config["pretrain"]["seed"] == 0
    assert "dim" not in config["pretrain"]  # the shape is said once
    assert "/" not in json.dumps(config["data"].get("source", ""))
    card = (model / "README.md").read_text()
    assert "Intended use" in card
    assert "UserEncoder.from_pretrained" in card


def test_going_on_from_a_model_takes_its_weights(shop: Dataset, small: Settings, model: Path, tmp_path: Path) -> None:
    pretrain(shop, tmp_path / "more", init=model, steps=1, lr=1e-12, **small)
    before, after = UserEncoder.from_pretrained(model), UserEncoder.from_pretrained(tmp_path / "more")
    np.testing.assert_allclose(after.encode(shop), before.encode(shop), atol=1e-4)
    with pytest.raises(UsageError, match="its dim is 16, here it is 8; set dim to 16"):
        pretrain(shop, init=model, steps=1, **{**small, "dim": 8})


def test_a_diverging_run_stops_with_a_remedy_and_leaves_nothing(shop: Dataset, small: Settings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"training has diverged|the loss is nan.*lower lr or set clip_norm"):
        pretrain(shop, tmp_path / "model", steps=6, lr=1e30, log_every=1, **small)
    assert not list(tmp_path.glob("**/*.safetensors"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dropuot": 0.1}, "unknown setting dropuot; did you mean dropout?"),
        ({"objective": "clu"}, "unknown objective clu; known: clue"),
        ({"backbone": "rnn"}, "backbone"),
        ({"view": "maks"}, "unknown view maks; known: dropout, mask, crop"),
        ({"view_share": 1.1}, r"view_share: .*less than or equal to 1.*given: 1\.1"),
        ({"dim": 10, "heads": 4}, "dim 10 cannot be shared equally by 4 heads"),
        ({"epochs": 2, "steps": 3}, "give only one of epochs, steps, minutes; got epochs and steps"),
        ({"lr": float("nan")}, "lr: "),
        ({"dropout": 1.0}, r"dropout: .*less than 1.*given: 1\.0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_made(shop: Dataset, tmp_path: Path, given: Settings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pretrain(shop, tmp_path / "model", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given",
    [
        {"objective": "next"},
        {"objective": "masked", "item_loss": "sampled", "item_updates": "lazy-adam"},
        {"objective": "hybrid", "objectives": "clue:1,next:0.5"},
        {"objective": "hybrid", "objectives": {"clue": 1.0, "masked": 2.0}, "item_loss": "bce", "item_updates": "rowwise-adagrad"},
    ],
)
def test_objectives_that_predict_items_are_trained_resumed_and_saved(
    shop: Dataset, small: Settings, tmp_path: Path, given: Settings
) -> None:
    settings = pretrain_settings(epochs=3, log_every=1, on_collapse="stop", **given, **small)
    whole = run_pretraining(shop, settings, tmp_path / "whole")
    assert not whole.collapsed
    assert {"loss", "accuracy", "effective_rank"} <= whole.last.keys()
    assert ("std_sqrt_d" in whole.last) == (given["objective"] == "hybrid")
    with pytest.raises(Interrupted):
        run_pretraining(shop, settings, tmp_path / "torn", watch=interrupt_at(4))
    run_pretraining(shop, settings, tmp_path / "torn", resume=True)
    assert weights(tmp_path / "torn") == weights(tmp_path / "whole")
    loaded = UserEncoder.from_pretrained(tmp_path / "torn")
    assert loaded.config.causal == ("next" in (given["objective"], *settings.parts()))
    np.testing.assert_array_equal(loaded.encode(shop), whole.encoder.encode(shop))
    assert loaded.facts["pretrain"]["objective"] == given["objective"]
