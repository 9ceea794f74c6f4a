"""A hybrid is the weighted sum of its parts, whether they share a pass of the encoder or not."""

from dataclasses import replace

import pytest
import torch

from userclue.config import PretrainSettings
from userclue.data.vocabulary import Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import UsageError
from userclue.jobs.pretrain import pretrain_settings
from userclue.objectives.registry import OBJECTIVES

SHAPE = {"dim": 8, "heads": 2, "blocks": 2, "max_len": 9, "dropout": 0.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def hybrid(objectives, **values):
    settings = PretrainSettings.of({**SHAPE, "objective": "hybrid", "objectives": objectives, **values})
    encoder = UserEncoder.new(settings.encoder(), Vocabulary.from_ids(list(range(20))), generator())
    with torch.no_grad():
        encoder.embedding.items.weight.normal_(generator=generator(1))
    return OBJECTIVES["hybrid"](encoder, settings, generator(2)).double()


@pytest.mark.parametrize(
    ("objectives", "sharing"),
    [
        ("clue:1,next:0.5", {"clue", "next"}),
        ({"next": 2, "clue": 0.25}, {"clue", "next"}),
        ("clue:1,masked:0.5", set()),
        ("next:3", set()),
    ],
)
def test_loss_and_gradients_are_the_weighted_sum(batch, objectives, sharing):
    """Without dropout the two copies of the batch are equal, so the shared pass must give what the parts give on their own."""
    made = hybrid(objectives)
    assert made.sharing == sharing
    step = made(batch(), generator(7))
    parts = dict(made.heads.items())
    # `masked` draws from the generator, the others do not.
    written = {name: part(batch(), generator(7)).loss for name, part in parts.items()}
    total = sum(weight * written[name] for name, weight in made.weights.items())
    torch.testing.assert_close(step.loss, total, rtol=1e-10, atol=0)
    names = dict(made.named_parameters())
    ours = torch.autograd.grad(step.loss, list(names.values()), allow_unused=True)
    theirs = torch.autograd.grad(total, list(names.values()), allow_unused=True)
    for name, one, other in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10, msg=name)
    metrics = step.metrics()
    for name, loss in written.items():
        assert metrics[f"{name}_loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
    assert ("std_sqrt_d" in metrics) == ("clue" in parts)
    assert ("accuracy" in metrics) == bool({"next", "masked"} & parts.keys())


def test_two_windows_are_encoded_in_one_pass_and_the_first_is_read(batch):
    made = hybrid("infonce:1,next:0.5", view="window")
    assert made.sharing == {"infonce", "next"}
    windows = replace(batch(), other=batch(seed=4))
    parts = dict(made.heads.items())
    expected = parts["infonce"](windows, generator()).loss + 0.5 * parts["next"](batch(), generator()).loss
    torch.testing.assert_close(made(windows, generator()).loss, expected, rtol=1e-9, atol=0)


def test_dropout_tells_the_two_shared_copies_apart(batch):
    assert hybrid("clue:1,next:0.5")(batch(), generator()).metrics()["alignment"] == pytest.approx(0, abs=1e-20)
    assert hybrid("clue:1,next:0.5", dropout=0.5)(batch(), generator()).metrics()["alignment"] > 0.1


def test_two_parts_of_one_kind_keep_both_numbers(batch):
    settings = pretrain_settings(**SHAPE, objective="hybrid", objectives="clue:1,next:1")
    encoder = UserEncoder.new(settings.encoder(), Vocabulary.from_ids(list(range(20))), generator())
    metrics = OBJECTIVES["hybrid"](encoder, settings, generator())(batch(), generator()).metrics()
    assert {"clue_loss", "next_loss", "std_sqrt_d", "accuracy"} <= metrics.keys()


def test_the_encoder_is_held_once(batch):
    made = hybrid("clue:1,byol:1,next:1")
    names = list(made.state_dict())
    assert not [name for name in names if name.startswith("heads.") and ".encoder." in name]
    assert sum(name.endswith("encoder.embedding.items.weight") for name in names) == 2  # and byol's target
    moved = made.float()
    assert all(part.encoder is moved.encoder for part in moved.heads.values())
    assert moved(batch(), generator()).loss.dtype == torch.float32


def test_what_the_parts_need_the_whole_needs():
    made = hybrid("clue:1,next:0.5")
    assert made.encoder.config.causal
    assert made.smallest_batch == 2
    assert {id(p) for p in made.constant_rate} == {id(p) for p in made.heads["clue"].predictor.parameters()}
    assert made.reads_whole_table
    assert not hybrid("clue:1,next:0.5", item_loss="sampled").reads_whole_table
    assert pretrain_settings(objective="hybrid").parts() == {"clue": 1.0, "next": 0.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objectives": "clue:1,nexxt:2", "objective": "hybrid"}, "unknown objective nexxt; known: "),
        ({"objectives": "clue:1,next", "objective": "hybrid"}, "write objectives and weights as clue:1,next:0.5"),
        ({"objectives": "clue:1,clue:2", "objective": "hybrid"}, "an objective is named twice"),
        ({"objectives": "clue:-1", "objective": "hybrid"}, "objectives must name one or more, with weights above 0"),
        ({"objectives": "hybrid:1", "objective": "hybrid"}, "a hybrid cannot be part of a hybrid"),
        ({"objectives": "masked:1,next:1", "objective": "hybrid"}, "next needs a causal encoder and masked one that reads both ways"),
        ({"objectives": "clue:1"}, "objectives belongs to objective=hybrid, not to clue"),
    ],
)
def test_parts_that_make_no_sense_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        pretrain_settings(**values)
