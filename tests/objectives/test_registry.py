"""Every objective keeps the contract that the training loop and `pretrain` rely on."""

import math

import numpy as np
import pytest
import torch

from userclue.config import PretrainSettings
from userclue.data.batches import pack
from userclue.data.store import Sequences
from userclue.data.vocabulary import Vocabulary
from userclue.encoder import UserEncoder
from userclue.objectives.registry import OBJECTIVES


@pytest.mark.parametrize("name", OBJECTIVES)
def test_contract(name):
    settings = PretrainSettings.of({"objective": name, "dim": 8, "heads": 2, "blocks": 1, "max_len": 5})
    generator = torch.Generator().manual_seed(0)
    encoder = UserEncoder.new(settings.encoder(), Vocabulary.from_ids(["a", "b", "c"]), generator)
    objective = OBJECTIVES[name](encoder, settings, generator)
    lists = [[4, 5, 6], [5], [6, 6], [4, 4, 4, 5]]
    batch = pack(Sequences.from_lists(lists), np.arange(len(lists)), 5)
    step = objective(batch, torch.Generator().manual_seed(1))
    assert step.loss.shape == ()
    assert math.isfinite(float(step.loss.detach()))
    assert all(isinstance(value, float) and math.isfinite(value) for value in step.metrics().values())
    step.loss.backward()
    assert all(parameter.grad is not None for parameter in encoder.backbone.parameters())
    assert 1 <= objective.smallest_batch <= len(lists)
    assert objective.encoder is encoder
    own = {id(parameter) for parameter in objective.parameters()}
    assert all(id(parameter) in own for parameter in objective.constant_rate)
