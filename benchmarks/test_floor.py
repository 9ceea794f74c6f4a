"""The floor's count of FLOPs against torch's own, on batches without padding."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks.floor import (
    Lengths,
    Shape,
    clue_steps,
    embedding_pass,
    encoder_flops,
    encoder_weights,
    folded_away,
    formed_once,
    full_ranking,
    last_steps,
    next_steps,
)
from benchmarks.workers.protocol import counted_flops
from userclue.config import PretrainSettings
from userclue.data.batches import pack
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, Vocabulary
from userclue.encoder import UserEncoder
from userclue.objectives.items import NextItem
from userclue.objectives.siamese import Clue
from userclue.tasks.base import Training
from userclue.tasks.sequential import SequentialModel, TiedHead

ITEMS, MAX_LEN, USERS, LENGTH = 40, 12, 5, 9


def encoder_of(dim: int, blocks: int, heads: int, causal: bool = False) -> UserEncoder:
    settings = PretrainSettings.of({"dim": dim, "blocks": blocks, "heads": heads, "max_len": MAX_LEN, "dropout": 0.5, "causal": causal})
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


@pytest.mark.parametrize(("dim", "blocks", "heads"), [(16, 2, 4), (32, 3, 2), (8, 1, 1)])
def test_flops_of_next_item_training_are_those_torch_counts(dim: int, blocks: int, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERCLUE_KERNELS", "off")
    encoder, packed, generator = encoder_of(dim, blocks, heads, causal=True), batch(), torch.Generator().manual_seed(1)
    shape, lengths, rows = Shape(dim, blocks), Lengths.of([LENGTH + 1] * USERS), len(encoder.vocabulary)
    objective = NextItem(encoder, PretrainSettings.of({"objective": "next", "dim": dim, "heads": heads}), generator)
    # Torch forms all l² scores and masks those of later tokens: l (l − 1) / 2 a head that the floor does not count.
    needless = 3 * blocks * USERS * 2 * dim * (LENGTH + 1) * LENGTH

    def everywhere() -> None:
        objective(packed, generator).loss.backward()

    assert counted_flops(everywhere) - needless == next_steps(lengths, rows, MAX_LEN, shape).flops

    targeted = replace(packed, targets=packed.tokens[:USERS])
    training = Training(SequentialModel(encoder, TiedHead(encoder), {}), "finetune", -100)

    def last() -> None:
        training(targeted, generator).loss.backward()

    assert counted_flops(last) == last_steps(lengths, rows, MAX_LEN, shape).flops


@pytest.mark.parametrize(("dim", "blocks", "heads"), [(16, 2, 4), (8, 1, 1)])
def test_the_encoders_weights_are_counted(dim: int, blocks: int, heads: int) -> None:
    encoder = encoder_of(dim, blocks, heads)
    counted = sum(parameter.numel() for parameter in encoder.parameters())
    assert counted == encoder_weights(len(encoder.vocabulary), MAX_LEN, Shape(dim, blocks))


def test_what_folding_the_last_query_leaves_is_what_its_products_cost() -> None:
    dim, heads, width = 16, 4, 4
    h, last = torch.randn(USERS, LENGTH + 1, dim), torch.randn(USERS, dim)
    square, rows = torch.randn(dim, dim), torch.randn(heads, width, dim)

    def folded() -> None:
        q = (last @ square).view(USERS, heads, width).transpose(0, 1)
        scores = (q @ rows).transpose(0, 1) @ h.transpose(1, 2)  # [B, H, L]
        values = (scores @ h).transpose(0, 1) @ rows.transpose(1, 2)  # [H, B, E]
        x = values.transpose(0, 1).reshape(USERS, dim)
        for _ in range(3):  # output, and the two layers of the feed-forward network
            x = x @ square

    lengths, shape = Lengths.of([LENGTH + 1] * USERS), Shape(dim, 1)
    assert counted_flops(folded) == encoder_flops(lengths, shape) - folded_away(lengths, shape, heads)


def test_what_is_formed_once_an_item_is_the_first_product_of_all_tokens_but_those() -> None:
    dim, lengths, weight = 16, Lengths.of([LENGTH + 1] * USERS), torch.randn(16, 48)

    def first(rows: int) -> int:
        return counted_flops(lambda: torch.randn(rows, dim) @ weight)

    spared = formed_once(lengths, 7, MAX_LEN, Shape(dim, 2))
    assert spared == first(lengths.tokens) - first(7) - first(MAX_LEN + 1)
    assert formed_once(lengths, 7, MAX_LEN, Shape(dim, 1)) == 0


def test_the_floor_is_the_larger_of_computing_and_moving() -> None:
    work = full_ranking(10, 100, Shape(4))
    assert work.flops == 2 * 10 * 100 * 4
    assert work.seconds(work.flops, work.bytes / 2) == 2.0
    assert work.seconds(work.flops / 3, work.bytes) == pytest.approx(3.0)
