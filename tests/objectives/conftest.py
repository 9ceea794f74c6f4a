"""Objectives in small, and batches to feed them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from userclue.config import PretrainSettings
from userclue.data.batches import Batch, pack
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, Vocabulary
from userclue.encoder import UserEncoder
from userclue.objectives.registry import OBJECTIVES
from userclue.objectives.siamese import Clue
from userclue.objectives.two_views import TwoViews

ITEMS = 20

torch.set_num_threads(1)


@pytest.fixture
def objective() -> Callable[..., TwoViews]:
    """An objective on a random encoder of width 8, without dropout unless said; float64, so that equal means equal."""

    def make(name: str, seed: int = 0, **values: Any) -> TwoViews:
        settings = PretrainSettings.of({"dim": 8, "heads": 2, "blocks": 1, "max_len": 9, "dropout": 0.0, **values})
        generator = torch.Generator().manual_seed(seed)
        encoder = UserEncoder.new(settings.encoder(), Vocabulary.from_ids(list(range(ITEMS))), generator)
        with torch.no_grad():
            encoder.embedding.items.weight.normal_(generator=generator)
        return OBJECTIVES[name](encoder, settings, generator).double().train()

    return make


@pytest.fixture
def clue(objective: Callable[..., TwoViews]) -> Callable[..., Clue]:
    """CLUE with a predictor of width 4."""
    return lambda seed=0, **values: objective("clue", seed, **{"predictor_dim": 4, **values})


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """Users with random histories of items low..high of the vocabulary."""

    def make(users: int = 16, seed: int = 0, low: int = 0, high: int = ITEMS) -> Batch:
        draw = np.random.default_rng(seed)
        lists = [draw.integers(FIRST_ITEM + low, FIRST_ITEM + high, draw.integers(2, 9)) for _ in range(users)]
        return pack(Sequences.from_lists(lists), np.arange(users), 9)

    return make
