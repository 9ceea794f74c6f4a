"""The objectives without predictor and target, step by step; which users InfoNCE holds for negatives; what all of two views share."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from userclue.data.batches import concatenate, pack
from userclue.data.store import Sequences
from userclue.objectives.contrastive import alike
from userclue.view_losses import barlow_twins, info_nce, vicreg

PAIRS = pytest.mark.parametrize(
    ("name", "values", "loss"),
    [
        ("infonce", {"temperature": 0.3}, lambda a, b: info_nce(a, b, 0.3)),
        ("vicreg", {"invariance_weight": 3.0, "variance_weight": 2.0, "covariance_weight": 0.5}, lambda a, b: vicreg(a, b, 3.0, 2.0, 0.5)),
        ("barlow", {"redundancy_weight": 0.1}, lambda a, b: barlow_twins(a, b, 0.1)),
    ],
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def packed(*lists):
    return pack(Sequences.from_lists(lists), np.arange(len(lists)), 9)


@PAIRS
def test_a_step(objective, batch, name, values, loss):
    made = objective(name, view="crop", view_share=0.5, **values)
    written = copy.deepcopy(made)
    step = made(batch(), generator(5))
    draw = generator(5)
    x1, x2 = written.view(batch(), draw), written.view(batch(), draw)
    theirs = loss(written.projector(written.encoder(x1)), written.projector(written.encoder(x2)))
    torch.testing.assert_close(step.loss, theirs, atol=1e-12, rtol=1e-12)
    step.loss.backward()
    theirs.backward()
    for (parameter_name, ours), parameter in zip(made.named_parameters(), written.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, parameter.grad, atol=1e-9, rtol=1e-8, msg=parameter_name)
    for ours, buffer in zip(made.buffers(), written.buffers(), strict=True):
        torch.testing.assert_close(ours, buffer)  # batch norm counted each view on its own, in this order


@pytest.mark.parametrize(
    ("name", "widths"), [("clue", [8, 8, 8]), ("byol", [16, 8]), ("infonce", [8, 8]), ("vicreg", [32] * 3), ("barlow", [32] * 3)]
)
def test_the_projector_is_as_wide_as_its_paper_has_it(objective, name, widths):
    def shape(**values):
        layers = [layer for layer in objective(name, **values).projector if isinstance(layer, torch.nn.Linear)]
        return [layer.out_features for layer in layers]

    assert shape() == widths
    assert shape(projector_dim=5) == [5] * len(widths)
    last = objective(name).projector[-1]
    assert isinstance(last, torch.nn.BatchNorm1d) == (name == "clue")
    assert isinstance(objective(name, projector_norm="all").projector[-1], torch.nn.BatchNorm1d)
    assert isinstance(objective(name, projector_norm="hidden").projector[-1], torch.nn.Linear)


def test_one_person_and_one_history_are_alike():
    batch = packed([4, 5], [6], [4, 5], [5, 4], [7, 4, 5])
    history = [0, 1, 0, 3, 4]
    expected = torch.tensor([[a == b for b in history * 2] for a in history * 2])
    assert torch.equal(alike(batch), expected)
    person = [0, 1, 2, 1, 4]
    grouped = replace(batch, groups=torch.tensor(person))
    both = torch.tensor([[a == b or p == q for b, q in zip(history * 2, person * 2)] for a, p in zip(history * 2, person * 2)])  # noqa: B905
    assert torch.equal(alike(grouped), both)


def test_windows_are_compared_with_windows():
    """The second window of user 0 is the first of user 1."""
    batch = replace(packed([4, 5], [6, 7], [8]), other=packed([6, 7], [4, 4], [8]))
    same = alike(batch)
    pairs = {(i, j) for i, j in same.nonzero().tolist() if i < j}
    assert pairs == {(0, 3), (1, 4), (2, 5), (1, 3)}


def test_infonce_leaves_the_alike_out(objective):
    made = objective("infonce")
    twins = packed([4, 5, 6], [9], [4, 5, 6], [10, 11])
    step = made(twins, generator())
    z1, z2 = made.project(made.encoder(made.views(twins, generator()), generator())).chunk(2)
    torch.testing.assert_close(step.loss, info_nce(z1, z2, 0.1, alike(twins)))
    assert float(step.loss.detach()) < float(info_nce(z1, z2, 0.1).detach()) - 0.1


def test_the_second_window_is_the_second_view(objective, batch):
    made = objective("vicreg", view="window")
    first, second = batch(seed=1), batch(seed=2)
    views = made.views(replace(first, other=second), generator())
    expected = concatenate(first, second)
    assert torch.equal(views.tokens, expected.tokens)
    assert torch.equal(views.offsets, expected.offsets)


@PAIRS
def test_half_precision_reaches_no_loss(objective, batch, name, values, loss):
    made = objective(name, **values).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = made(batch(), generator())
    assert step.loss.dtype == torch.float32
    step.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters())
