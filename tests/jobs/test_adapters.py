"""Transfer by adapters: only patches, second norms and head learn, and the fitted model carries them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from userclue.data.store import Dataset
from userclue.encoder import UserEncoder
from userclue.errors import UsageError
from userclue.jobs.finetune import evaluate, finetune
from userclue.jobs.pretrain import pretrain
from userclue.nn.backbones import BACKBONES
from userclue.tasks.base import FittedModel
from userclue.tasks.registry import load_fitted
from userclue.train.adam import FusedAdam

ADAPTABLE = [name for name, kind in BACKBONES.items() if kind.adaptable]
Fit = Callable[..., tuple[UserEncoder, FittedModel]]

every_backbone = pytest.mark.parametrize("name", ADAPTABLE)


@pytest.fixture(scope="module")
def encoders(shop: Dataset, small: dict[str, Any]) -> dict[str, UserEncoder]:
    return {name: pretrain(shop, backbone=name, epochs=2, **{**small, "blocks": 2}) for name in ADAPTABLE}


@pytest.fixture(scope="module")
def fit(encoders: dict[str, UserEncoder], shop: Dataset, labels: pa.Table) -> Fit:
    def run(name: str, task: str = "profiling", out: Path | None = None, **settings: Any) -> tuple[UserEncoder, FittedModel]:
        given = {"labels": labels} if task == "profiling" else {}
        fast = {"epochs": 3, "lr": 0.02, "batch_size": 32, "baselines": False}
        return encoders[name], finetune(encoders[name], shop, out, task=task, **{"mode": "adapter", **given, **fast, **settings})

    return run


def learned(name: str) -> bool:
    return ".adapter." in name or ".norm2." in name


@every_backbone
@pytest.mark.parametrize(("task", "head"), [("profiling", "linear"), ("sequential", "linear"), ("sequential", "tied")])
def test_only_patches_and_second_norms_learn(fit: Fit, name: str, task: str, head: str) -> None:
    encoder, model = fit(name, task, head=head)
    fresh = {key: weight.clone() for key, weight in encoder.state_dict().items()}
    for key, weight in model.encoder.state_dict().items():
        if key in fresh:
            assert torch.equal(weight, fresh[key]) != learned(key), key
        else:
            assert ".adapter." in key
            assert float(weight.abs().sum()) > 0, key
    # Two blocks of two patches, D → D/4 → D with D = 16, and a norm.
    in_blocks = 2 * (2 * (16 * 4 + 4 + 4 * 16 + 16) + 2 * 16)
    in_head = sum(parameter.numel() for parameter in model.head.parameters())
    assert model.facts["trained_parameters"] == in_blocks + in_head
    assert model.facts["total_parameters"] == sum(weight.numel() for weight in model.state_dict().values())
    assert (model.facts["mode"], model.facts["system"]) == ("adapter", "clue_adapter")
    assert all(parameter.requires_grad for parameter in model.parameters())


@every_backbone
def test_gradients_reach_only_what_learns(fit: Fit, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    original = FusedAdam.step

    def note(optimizer: Any, *arguments: Any) -> Any:
        seen.append({str(id(p)) for group in optimizer.param_groups for p in group["params"] if p.grad is not None})
        return original(optimizer, *arguments)

    monkeypatch.setattr(FusedAdam, "step", note)
    _, model = fit(name, epochs=1)
    expected = {str(id(p)) for key, p in model.named_parameters() if learned(key) or key.startswith("head.")}
    assert seen
    assert all(step == expected for step in seen)


@every_backbone
def test_a_fitted_model_reads_the_same_after_loading(fit: Fit, shop: Dataset, labels: pa.Table, name: str, tmp_path: Path) -> None:
    encoder, model = fit(name, out=tmp_path / "fitted", baselines=True)
    loaded = load_fitted(tmp_path / "fitted")
    assert loaded.encoder.config.adapters
    assert np.array_equal(loaded.scores(shop.sequences()), model.scores(shop.sequences()))
    assert np.array_equal(UserEncoder.from_pretrained(tmp_path / "fitted").encode(shop), model.encoder.encode(shop))
    assert not np.allclose(model.encoder.encode(shop), encoder.encode(shop), atol=1e-3)
    assert evaluate(loaded, shop, labels=labels)["metrics"] == model.facts["metrics"]
    task = json.loads((tmp_path / "fitted" / "task.json").read_text())
    assert task["trained_parameters"] < task["total_parameters"]
    assert not encoder.config.adapters


def test_same_seed_same_bits(fit: Fit) -> None:
    one, again, other = (fit("transformer", seed=seed)[1].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_what_other_modes_train_is_told_too(fit: Fit) -> None:
    counts = {mode: fit("transformer", mode=mode, epochs=1)[1].facts for mode in ("finetune", "probe", "scratch")}
    for mode in ("finetune", "scratch"):
        assert counts[mode]["trained_parameters"] == counts[mode]["total_parameters"]
    assert counts["probe"]["trained_parameters"] == 16 * 3 + 3


def test_the_rival_from_scratch_has_no_patches(fit: Fit, shop: Dataset, tmp_path: Path) -> None:
    _, alone = fit("transformer", mode="scratch")
    _, model = fit("transformer", with_scratch=True)
    assert model.facts["baselines"]["clue_zero"] == alone.facts["metrics"]
    assert not alone.encoder.config.adapters


def test_a_model_with_adapters_can_be_fitted_again_and_is_no_start_of_pre_training(fit: Fit, shop: Dataset, small: dict[str, Any]) -> None:
    _, model = fit("transformer")
    for mode in ("adapter", "finetune", "probe"):
        again = finetune(model.encoder, shop, task="sequential", mode=mode, epochs=1, baselines=False)
        assert again.encoder.config.adapters
    with pytest.raises(UsageError, match="it holds adapters of a task; start from the model that was fitted with them"):
        pretrain(shop, steps=1, init=model.encoder, **{**small, "blocks": 2})


def test_a_backbone_without_places_for_patches_is_refused(shop: Dataset, small: dict[str, Any]) -> None:
    encoder = pretrain(shop, backbone="gru", steps=1, **small)
    with pytest.raises(UsageError, match="backbone gru has no place for adapters; they fit transformer and nextitnet"):
        finetune(encoder, shop, task="sequential", mode="adapter")
