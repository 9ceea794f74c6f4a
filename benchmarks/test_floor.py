"""The floor's count of FLOPs against torch's own, on batches without padding."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks.floor import Lengths, Shape, clue_steps, embedding_pass, encoder_flops, encoder_weights, full_ranking
from benchmarks.workers.protocol import counted_flops
from userclue.config import PretrainSettings
from userclue.data.batches import pack
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, Vocabulary
from userclue.encoder import UserEncoder
from userclue.objectives.siamese import Clue

ITEMS, MAX_LEN, USERS, LENGTH = 40, 12, 5, 9


def encoder_of(dim: int, blocks: int, heads: int) -> UserEncoder:
    settings = PretrainSettings.of({"dim": dim, "blocks": blocks, "heads": heads, "max_len": MAX_LEN, "dropout": 0.5})
    vocabulary = Vocabulary(
        pa.table(
            {
                "item_id": pa.array(range(ITEMS), pa.int64()),
                "index": pa.array(range(FIRST_ITEM, FIRST_ITEM + ITEMS), pa.int32()),
                "count": pa.array([1] * ITEMS, pa.int64()),
            }
        )
    )
    return UserEncoder.new(settings.encoder(), vocabulary, torch.Generator().manual_seed(0))


def batch():
    items = np.arange(USERS * LENGTH, dtype=np.int32) % ITEMS + FIRST_ITEM
    bounds = np.arange(USERS + 1, dtype=np.int64) * LENGTH
    return pack(Sequences(items, bounds[:-1], bounds[1:]), np.arange(USERS), MAX_LEN)


@pytest.mark.parametrize(("dim", "blocks", "heads"), [(16, 2, 4), (32, 3, 2), (8, 1, 1)])
def test_flops_of_a_step_and_of_an_embedding_pass_are_those_torch_counts(
    dim: int, blocks: int, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERCLUE_KERNELS", "off")  # torch cannot look into compiled kernels
    encoder, packed = encoder_of(dim, blocks, heads), batch()
    shape, lengths = Shape(dim, blocks, dim // 4), Lengths.of([LENGTH + 1] * USERS)
    assert counted_flops(lambda: encoder(packed)) == encoder_flops(lengths, shape)
    assert counted_flops(lambda: encoder(packed)) == embedding_pass(lengths, ITEMS, MAX_LEN, shape).flops

    generator = torch.Generator().manual_seed(1)
    objective = Clue(encoder, PretrainSettings.of({"dim": dim, "heads": heads}), generator)

    def step() -> None:
        objective(packed, generator).loss.backward()

    assert counted_flops(step) == clue_steps(lengths, ITEMS, MAX_LEN, shape).flops


@pytest.mark.parametrize(("dim", "blocks", "heads"), [(16, 2, 4), (8, 1, 1)])
def test_the_encoders_weights_are_counted(dim: int, blocks: int, heads: int) -> None:
    encoder = encoder_of(dim, blocks, heads)
    counted = sum(parameter.numel() for parameter in encoder.parameters())
    assert counted == encoder_weights(len(encoder.vocabulary), MAX_LEN, Shape(dim, blocks))


def test_the_floor_is_the_larger_of_computing_and_moving() -> None:
    work = full_ranking(10, 100, Shape(4))
    assert work.flops == 2 * 10 * 100 * 4
    assert work.seconds(work.flops, work.bytes / 2) == 2.0
    assert work.seconds(work.flops / 3, work.bytes) == pytest.approx(3.0)
