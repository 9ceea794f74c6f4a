"""Optimisers and the course of the rate."""

import copy
import math

import pytest
import torch

from userclue.config import TrainSettings
from userclue.train.optim import build_optimizer, set_rate


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.tail, self.frozen = (torch.nn.Linear(2, 2) for _ in range(3))
        self.frozen.requires_grad_(False)

    @property
    def constant_rate(self):
        return list(self.tail.parameters())


def rates(optimizer, module):
    by_id = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return by_id.get(id(module.body.weight)), by_id.get(id(module.tail.bias)), by_id.get(id(module.frozen.weight))


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0, 1.5])
def test_cosine_bends_all_but_the_constant_part(name, progress):
    settings = TrainSettings.of({"optimizer": name, "schedule": "cosine", "lr": 0.4})
    module = Module()
    optimizer = build_optimizer(module, settings)
    set_rate(optimizer, settings, progress)
    assert rates(optimizer, module) == (pytest.approx(0.2 * (1 + math.cos(math.pi * min(progress, 1)))), 0.4, None)


def test_constant_rate_stays():
    settings = TrainSettings.of({"lr": 0.4})
    module = Module()
    optimizer = build_optimizer(module, settings)
    set_rate(optimizer, settings, 0.9)
    assert rates(optimizer, module) == (0.4, 0.4, None)


def test_settings_reach_the_optimiser():
    sgd = build_optimizer(Module(), TrainSettings.of({"optimizer": "sgd", "momentum": 0.7, "weight_decay": 0.2}))
    assert isinstance(sgd, torch.optim.SGD)
    assert all((group["momentum"], group["weight_decay"]) == (0.7, 0.2) for group in sgd.param_groups)
    adam = build_optimizer(torch.nn.Linear(2, 2), TrainSettings.of({"weight_decay": 0.1}))
    assert isinstance(adam, torch.optim.Adam)
    assert [group["weight_decay"] for group in adam.param_groups] == [0.1]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_torchs_to_the_bit_and_takes_over_its_state(decay):
    ours, theirs = Module(), Module()
    theirs.load_state_dict(ours.state_dict())
    settings = TrainSettings.of({"lr": 0.1, "weight_decay": decay})
    optimizer, oracle = build_optimizer(ours, settings), torch.optim.Adam(theirs.parameters(), lr=0.1, weight_decay=decay, fused=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        if step == 3:  # resumed: from the other's state at that
            optimizer = build_optimizer(ours, settings)
            optimizer.state.update(zip(ours.parameters(), copy.deepcopy(list(oracle.state.values())), strict=False))
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            met = one.requires_grad and (one is not ours.tail.bias or step % 2)
            one.grad = torch.randn(one.shape, generator=generator) if met else None
            other.grad = None if one.grad is None else one.grad.clone()
        optimizer.step()
        oracle.step()
        assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))
    saved = optimizer.state_dict()["state"]
    assert {name: type(value) for name, value in saved[0].items()} == dict.fromkeys(("step", "exp_avg", "exp_avg_sq"), torch.Tensor)
