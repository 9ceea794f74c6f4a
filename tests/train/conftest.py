"""A run in small: 23 users, three batches an epoch, an encoder of width 8."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from userclue.config import PretrainSettings
from userclue.data.batches import BatchStream
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, Vocabulary
from userclue.encoder import UserEncoder
from userclue.objectives.registry import OBJECTIVES
from userclue.train.checkpoint import Checkpoints
from userclue.train.journal import Journal
from userclue.train.loop import Training

ITEMS = 12

torch.set_num_threads(1)


class Killed(Exception):
    """Stands for the end of a process: nothing of ours runs after it."""


@pytest.fixture
def killed() -> type[Exception]:
    return Killed


@pytest.fixture
def make() -> Callable[..., Training]:
    """A Training of CLUE or another objective. `target`: with checkpoints, one a step. `kill_at`: steps done when the process dies."""

    def run(
        *,
        users: int = 23,
        target: Path | None = None,
        kill_at: int | None = None,
        checkpoint_seconds: float = 0.0,
        log_every: int = 1,
        end_of_epoch: Callable[[int, int], bool] | None = None,
        fingerprint: dict[str, Any] | None = None,
        **values: Any,
    ) -> Training:
        shape = {"dim": 8, "heads": 2, "blocks": 1, "max_len": 6, "batch_size": 8, "dropout": 0.3, "device": "cpu", "predictor_dim": 4}
        settings = PretrainSettings.of({**shape, **({"steps": 8} if not {"epochs", "steps", "minutes"} & values.keys() else {}), **values})
        draw = np.random.default_rng(0)
        sequences = Sequences.from_lists([draw.integers(FIRST_ITEM, FIRST_ITEM + ITEMS, draw.integers(1, 10)) for _ in range(users)])
        generator = torch.Generator().manual_seed(settings.seed)
        encoder = UserEncoder.new(settings.encoder(), Vocabulary.from_ids(list(range(ITEMS))), generator)
        objective = OBJECTIVES[settings.objective](encoder, settings, generator)
        training = Training(
            objective,
            BatchStream(lambda _: (sequences, None), users, settings.batch_size, settings.max_len, settings.seed, objective.smallest_batch),
            settings,
            journal=Journal(),
            log_every=log_every,
            end_of_epoch=end_of_epoch,
            checkpoints=None if target is None else Checkpoints(target, fingerprint or settings.model_dump()),
            checkpoint_seconds=checkpoint_seconds,
        )
        if kill_at is not None:

            def die(*_: Any) -> None:
                if training.progress.step == kill_at:
                    raise Killed

            training.module.register_forward_pre_hook(die)
        return training

    return run


@pytest.fixture
def same() -> Callable[[Training, Training], None]:
    """Assert that two runs ended bit-equal: weights, buffers, optimiser, progress and logged rows (but for the clock)."""

    def compare(first: Training, second: Training) -> None:
        other = second.module.state_dict()
        for name, tensor in first.module.state_dict().items():
            assert torch.equal(tensor, other[name]), name
        optimizers = [run.optimizer.state_dict()["state"] for run in (first, second)]
        assert optimizers[0].keys() == optimizers[1].keys()
        for index, state in optimizers[0].items():
            for key, value in state.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(optimizers[1][index][key])), (index, key)
        places = [(run.progress.epoch, run.progress.step_in_epoch, run.progress.step) for run in (first, second)]
        assert places[0] == places[1]
        clock = {"seconds", "users_per_second"}
        rows = [[{k: v for k, v in row.items() if k not in clock} for row in run.journal.rows] for run in (first, second)]
        assert rows[0] == rows[1]

    return compare
