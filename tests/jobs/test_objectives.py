"""Every objective, whatever its name, keeps what `pretrain` promises: it learns, repeats itself, resumes, saves, and knows odd users."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load_file

from userclue.data.prepare import prepare
from userclue.data.store import Dataset
from userclue.data.vocabulary import Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import DataError, Interrupted
from userclue.jobs.pretrain import pretrain, pretrain_settings, run_pretraining
from userclue.objectives.registry import OBJECTIVES
from userclue.train.journal import Watch
from userclue.views import VIEWS

EVERY = pytest.mark.parametrize("name", OBJECTIVES)


@EVERY
def test_twenty_steps_lower_the_loss_and_repeat_themselves(shop: Dataset, small: dict[str, Any], tmp_path: Path, name: str) -> None:
    settings = {**small, "objective": name, "steps": 20, "log_every": 1, "lr": 0.01}
    encoder = pretrain(shop, tmp_path / "model", **settings)
    losses = [row["loss"] for row in encoder.rows]
    assert np.mean(losses[-5:]) < np.mean(losses[:3]) - 0.02 * abs(losses[0]), losses
    again = pretrain(shop, **settings)
    assert [row["loss"] for row in again.rows] == losses
    vectors = encoder.encode(shop)
    assert np.array_equal(again.encode(shop), vectors)
    assert np.array_equal(UserEncoder.from_pretrained(tmp_path / "model").encode(shop), vectors)
    assert np.isfinite(vectors).all()
    # heads and targets stay behind
    assert load_file(tmp_path / "model" / "model.safetensors").keys() == encoder.state_dict().keys()


@EVERY
def test_interrupted_it_goes_on_bit_equal(shop: Dataset, small: dict[str, Any], tmp_path: Path, name: str) -> None:
    def at_step_4(row: dict[str, Any]) -> None:
        if row["step"] == 4:
            signal.raise_signal(signal.SIGINT)

    settings = pretrain_settings(objective=name, view="window+mask", steps=7, log_every=1, **small)
    run_pretraining(shop, settings, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run_pretraining(shop, settings, tmp_path / "torn", watch=Watch(row=at_step_4))
    run_pretraining(shop, settings, tmp_path / "torn", resume=True)
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "torn")]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def odd(make_log: Callable[..., pa.Table], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The shop, and users with one event, and one with more events than are read at once."""
    log = make_log(users=12)
    more = [(100 + user, "a0") for user in range(4)] + [(200, f"b{step % 6}") for step in range(40)]
    users, items = (pa.array(column) for column in zip(*more, strict=True))
    odd_users = pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(range(1_700_000_000, 1_700_000_000 + len(more)))})
    return prepare(pa.concat_tables([log, odd_users]), tmp_path_factory.mktemp("odd") / "data", threads=1)


@EVERY
@pytest.mark.parametrize("view", VIEWS)
def test_odd_users(odd: Dataset, small: dict[str, Any], name: str, view: str) -> None:
    """Users with one event, all the same one, among the others; and a history longer than max_len."""
    encoder = pretrain(odd, objective=name, view=view, steps=3, log_every=1, hold_out=0, **{**small, "batch_size": 6})
    assert all(row["loss"] is not None for row in encoder.rows)
    assert np.isfinite(encoder.encode(odd)).all()


@EVERY
def test_the_smallest_batch(small: dict[str, Any], tmp_path: Path, name: str) -> None:
    """As few users as the objective says it needs; one fewer is refused in words."""
    settings = pretrain_settings(objective=name, **small)
    generator = torch.Generator().manual_seed(0)
    encoder = UserEncoder.new(settings.encoder(), Vocabulary.from_ids(["a"]), generator)
    least = OBJECTIVES[name](encoder, settings, generator).smallest_batch
    rows = [(user, "abc"[(user + step) % 3], step) for user in range(least) for step in range(4)]

    def data(users: int) -> Dataset:
        columns = zip(*(row for row in rows if row[0] < users), strict=True)
        table = pa.table(dict(zip(("user_id", "item_id", "timestamp"), map(pa.array, columns), strict=True)))
        return prepare(table, tmp_path / str(users), threads=1)

    encoder = pretrain(data(least), objective=name, steps=2, hold_out=0, **small)
    assert np.isfinite(encoder.encode([["a", "b"]])).all()
    if least > 1:
        with pytest.raises(DataError, match=f"{name} needs at least {least}"):
            pretrain(data(least - 1), objective=name, steps=2, hold_out=0, **small)


def test_windows_of_one_person_are_known_as_such(make_log: Callable[..., pa.Table], small: dict[str, Any], tmp_path: Path) -> None:
    """A dataset of windows: whose they are reaches the batches, through users whose windows are too short to be learned from."""
    from userclue.train.loop import Training

    dataset = prepare(make_log(users=20), tmp_path / "data", window=3, threads=1)
    assert dataset.people is not None
    assert len(np.unique(dataset.people)) == 20
    runs: list[Training] = []
    settings = pretrain_settings(objective="infonce", steps=1, **small)
    run_pretraining(dataset, settings, watch=Watch(started=runs.append))
    for batch in runs[0].stream.epoch(0):
        assert batch.groups is not None
        ids = dataset.user_table["source_user"].to_pylist()
        same = [[ids[a] == ids[b] for b in batch.users] for a in batch.users]
        assert (batch.groups[:, None] == batch.groups).tolist() == same


def test_whole_histories_have_no_groups(shop: Dataset) -> None:
    assert shop.people is None
