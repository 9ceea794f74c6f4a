"""Item and position tables."""

import torch

from userclue.data.vocabulary import PAD, UNK
from userclue.nn.embedding import SequenceEmbedding
from userclue.nn.layout import Layout


def made(seed: int = 0) -> SequenceEmbedding:
    table = SequenceEmbedding(500, 20, 16)
    table.reset(torch.Generator().manual_seed(seed))
    return table


def test_a_token_is_its_item_plus_its_position():
    table = made()
    tokens, from_end, layout = torch.tensor([4, 9, 2, 4]), (2, 1, 0, 0), Layout(torch.tensor([0, 3, 4]), 3, 4)
    expected = torch.stack([table.items.weight[t] + table.positions.weight[p] for t, p in zip(tokens, from_end, strict=True)])
    assert torch.equal(table(tokens, layout), expected)


def test_there_is_a_position_for_max_len_items_and_ur():
    assert made().positions.weight.shape == (21, 16)


def test_weights_start_normal_and_an_unknown_item_says_nothing():
    table = made()
    assert torch.equal(table.items.weight[[PAD, UNK]], torch.zeros(2, 16))
    rest = table.items.weight[4:].detach()
    assert abs(float(rest.std()) / 0.02 - 1) < 0.05
    assert abs(float(rest.mean())) < 0.001
    assert torch.equal(rest, made().items.weight[4:])
    assert not torch.equal(rest, made(1).items.weight[4:])
