"""Every backbone through the jobs: CLUE learns on it, reproducibly, and the model reads the same after a round trip."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.errors import Interrupted, UsageError
from userclue.jobs.finetune import finetune
from userclue.jobs.pretrain import pretrain, pretrain_settings, run_pretraining
from userclue.nn.backbones import BACKBONES
from userclue.objectives.registry import OBJECTIVES
from userclue.train.journal import Watch

METHOD = Path(__file__).parents[2] / "docs" / "method.md"
STEPS = {"steps": 20, "log_every": 1, "lr": 0.03, "device": "cpu"}

every_backbone = pytest.mark.parametrize("name", BACKBONES)


@every_backbone
def test_clue_learns_the_same_under_a_seed_and_a_saved_model_reads_the_same(
    shop: Dataset, small: dict[str, Any], tmp_path: Path, name: str
) -> None:
    made = [pretrain(shop, tmp_path / f"{turn}", backbone=name, seed=seed, **STEPS, **small) for turn, seed in enumerate((1, 1, 2))]
    losses = [row["loss"] for row in made[0].rows]
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    vectors = [encoder.encode(shop) for encoder in made]
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2])
    loaded = UserEncoder.from_pretrained(tmp_path / "0")
    assert np.array_equal(loaded.encode(shop), vectors[0])
    assert loaded.config == made[0].config
    assert loaded.config.causal is not None


@every_backbone
def test_an_interrupted_run_ends_with_the_same_bits(shop: Dataset, small: dict[str, Any], tmp_path: Path, name: str) -> None:
    settings = pretrain_settings(backbone=name, steps=9, log_every=1, **small)
    whole = run_pretraining(shop, settings).encoder.state_dict()
    watch = Watch(row=lambda row: signal.raise_signal(signal.SIGINT) if row["step"] == 5 else None)
    with pytest.raises(Interrupted, match="at step 5"):
        run_pretraining(shop, settings, tmp_path / "model", watch=watch)
    resumed = run_pretraining(shop, settings, tmp_path / "model", resume=True).encoder.state_dict()
    for key, weight in whole.items():
        assert torch.equal(weight, resumed[key]), key


@every_backbone
def test_both_tasks_and_half_precision_work_on_it(shop: Dataset, small: dict[str, Any], labels: Any, name: str) -> None:
    encoder = pretrain(shop, backbone=name, steps=2, precision="bfloat16", **small)
    assert np.isfinite(encoder.encode(shop)).all()
    for task, given in (("profiling", {"labels": labels}), ("sequential", {})):
        fitted = finetune(encoder, shop, task=task, epochs=1, baselines=False, **given)
        assert fitted.encoder.config == encoder.config


def test_settings_that_contradict_the_backbone_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="backbone gru is causal and cannot be made bidirectional"):
        pretrain(tmp_path / "no-such-dataset", backbone="gru", causal=False)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("nextitnet", {"dilation": "repeated"}, "its dilation is repeated, here it is growing; set dilation to repeated"),
        ("caser", {"filter_heights": 2}, "its filter_heights is 2, here it is 5"),
        ("gru", {"blocks": 2}, "its blocks is 2, here it is 1"),
    ],
)
def test_training_goes_on_from_the_same_shape_only(
    shop: Dataset, small: dict[str, Any], name: str, shape: dict[str, Any], message: str
) -> None:
    before = pretrain(shop, backbone=name, steps=1, **{**small, **shape})
    with pytest.raises(UsageError, match=message):
        pretrain(shop, backbone=name, steps=1, init=before, **small)
    after = pretrain(shop, backbone=name, steps=1, lr=1e-30, init=before, **{**small, **shape})
    np.testing.assert_allclose(after.encode(shop), before.encode(shop), atol=1e-6)


def _works(shop: Dataset, small: dict[str, Any], objective: str, backbone: str, causal: bool) -> bool:
    try:
        pretrain(shop, objective=objective, backbone=backbone, causal=causal, steps=1, **small)
    except UsageError:
        return False
    return True


def test_the_table_of_backbones_and_objectives_in_the_docs_is_what_runs(shop: Dataset, small: dict[str, Any]) -> None:
    words = {(True, True): "either way", (True, False): "causal", (False, True): "bidirectional", (False, False): "–"}

    def cell(objective: str, backbone: str) -> str:
        return words[_works(shop, small, objective, backbone, True), _works(shop, small, objective, backbone, False)]

    rows = [[f"`{objective}`", *(cell(objective, backbone) for backbone in BACKBONES)] for objective in OBJECTIVES]
    head = ["", *(f"`{name}`" for name in BACKBONES)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))
    assert table in METHOD.read_text(encoding="utf-8"), f"docs/method.md should hold this table:\n\n{table}"
