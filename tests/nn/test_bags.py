"""Bags of features against the definitions in float64: sums over all pairs of a bag, layer after layer by hand."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from userclue.data.batches import pack
from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM, MASK, UNK
from userclue.errors import UsageError
from userclue.nn.backbones import BACKBONES, BAGS
from userclue.nn.bags import DEEP_WIDTH, BagEmbedding, bi_interaction

BAG = [4, 9, 9, 12, 30]
bags = pytest.mark.parametrize("name", BAGS)


def of(histories, max_len=9):
    return pack(Sequences.from_lists([np.array(one) for one in histories]), np.arange(len(histories)), max_len)


def test_interactions_are_the_sum_over_all_pairs():
    """Equation 4 of NFM, O(n²), for bags of 5, 0, 1 and 3 rows whose rows lie mixed."""
    owner = torch.tensor([3, 0, 0, 2, 3, 0, 0, 3, 0])
    rows = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total, pairs = bi_interaction(rows, owner, 4)
    for bag in range(4):
        own = rows[owner == bag]
        expected = sum((a * b for a, b in combinations(own, 2)), torch.zeros(6, dtype=torch.float64))
        torch.testing.assert_close(pairs[bag], expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(total[bag], own.sum(0), atol=1e-12, rtol=0)


def test_gradients_of_the_interactions():
    rows = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: bi_interaction(x, torch.tensor([0, 0, 0, 1, 2, 2, 2]), 4), (rows,))


def test_a_bag_is_the_known_items_of_the_window_each_of_value_one_over_root_n():
    embedding = BagEmbedding(34, 5).double()
    embedding.reset(torch.Generator().manual_seed(0))
    found = embedding(of([[5, *BAG, UNK], [UNK, UNK], [7]], max_len=6))
    read = torch.tensor(BAG)  # the window of six is the bag and UNK: five features
    x = 5**-0.5
    v, u = embedding.items.weight[read] * x, embedding.linear.weight[read] * x
    pairs = sum(a * b for a, b in combinations(v, 2))
    torch.testing.assert_close(found[0], torch.cat([u.sum(0), v.sum(0), pairs]), atol=1e-12, rtol=0)
    assert found[1].abs().max() == 0  # nothing known: nothing said
    torch.testing.assert_close(found[2], torch.cat([embedding.linear.weight[7], embedding.items.weight[7], torch.zeros(5)]))


def by_hand(name, encoder, bag):
    """The user's vector from the papers' formulas, one bag at a time, without dropout."""
    read, net = torch.tensor(bag), encoder.backbone
    x = len(bag) ** -0.5
    v, u = encoder.embedding.items.weight[read] * x, encoder.embedding.linear.weight[read] * x
    pairs = sum((a * b for a, b in combinations(v, 2)), torch.zeros_like(v[0]))
    if name == "nfm":
        norm = net.norm
        z = (pairs - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        for layer in net.layers:
            z = linear(z, layer.weight, layer.bias).clamp(min=0)
        return z + u.sum(0)
    z = v.sum(0)
    for layer in net.layers:
        assert layer.out_features == DEEP_WIDTH
        z = linear(z, layer.weight, layer.bias).clamp(min=0)
    return u.sum(0) + pairs + linear(z, net.out.weight, net.out.bias)


@bags
def test_the_networks_are_the_papers_formulas(encoder, name):
    made = encoder(backbone=name).double()
    for key, buffer in made.named_buffers():
        if key.endswith(("mean", "var")):
            buffer.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2))
    found = made(of([BAG, [6], [31, 4]]))
    for row, bag in zip(found, (BAG, [6], [31, 4]), strict=True):
        torch.testing.assert_close(row, by_hand(name, made, bag), atol=1e-10, rtol=0)


def test_first_order_weights_of_each_class_can_be_anything():
    """w_ik = ⟨h_k, u_i⟩: with as many classes as dimensions the head h can be the unit matrix, and then u holds the weights."""
    weights = torch.randn(34, 5, generator=torch.Generator().manual_seed(0))
    embedding = BagEmbedding(34, 5)
    embedding.reset(torch.Generator().manual_seed(0))
    embedding.linear.weight.data = weights
    first = embedding(of([BAG]))[:, :5] @ torch.eye(5)
    torch.testing.assert_close(first[0], weights[torch.tensor(BAG)].sum(0) / 5**0.5)


@bags
def test_order_and_batch_do_not_matter_and_what_is_no_item_is_passed_over(encoder, histories, name):
    made = encoder(backbone=name)
    given = [list(one) for one in histories(1, 5, 9, 8)]
    together = made(of(given))
    torch.testing.assert_close(together, torch.cat([made(of([one])) for one in given]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together, made(of([one[::-1] for one in given])), atol=1e-5, rtol=0)
    torch.testing.assert_close(made(of([[4, MASK, 5, UNK]])), made(of([[4, 5]])), atol=1e-6, rtol=0)
    assert torch.isfinite(made(of([[UNK]]))).all()


@bags
def test_dropout_and_batch_norm_act_with_a_generator_and_by_it_alone(encoder, histories, name):
    made = encoder(backbone=name, dropout=0.5).train()
    batch = of([list(one) for one in histories(3, 5, 9, 6)])
    before = {key: value.clone() for key, value in made.state_dict().items()}
    still = made(batch)
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())
    assert torch.equal(still, made(batch))
    first, again, other = (made(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, still)


def test_the_norm_of_nfm_is_torchs(encoder, histories):
    """Statistics of the batch while learning, and the running mean that PyTorch's own module keeps."""
    made, own = encoder(backbone="nfm"), nn.BatchNorm1d(16)
    own.load_state_dict(made.backbone.norm.state_dict())
    batch = of([list(one) for one in histories(3, 5, 9, 6)])
    linear_part, _, pairs = made.embedding(batch).chunk(3, dim=1)
    expected = made.backbone.deep(own.train()(pairs), None) + linear_part
    torch.testing.assert_close(made(batch, torch.Generator().manual_seed(0)), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.backbone.norm.running_mean, own.running_mean)
    torch.testing.assert_close(made.backbone.norm.running_var, own.running_var)


@bags
def test_every_weight_learns_and_is_drawn_from_the_generator(encoder, histories, name):
    first, second = encoder(backbone=name), encoder(backbone=name, seed=3)
    for made in (first, second):
        made.reset(torch.Generator().manual_seed(4))
    assert all(torch.equal(weight, second.state_dict()[key]) for key, weight in first.state_dict().items())
    made = encoder(backbone=name)
    made(of([list(one) for one in histories(3, 5, 9, 6)]), torch.Generator().manual_seed(0)).pow(2).sum().backward()
    for key, parameter in made.named_parameters():
        assert float(parameter.grad.abs().sum()) > 0, key


@bags
def test_what_a_bag_has_not_is_refused(encoder, name):
    assert name not in BACKBONES
    with pytest.raises(UsageError, match=r"a bag of items has no state for each item; .* choose another backbone"):
        encoder(backbone=name).states(of([[FIRST_ITEM]]))
    with pytest.raises(UsageError, match=f"backbone {name} is bidirectional and cannot be made causal"):
        encoder(backbone=name, causal=True)
    with pytest.raises(UsageError, match=f"backbone {name} has no place for adapters"):
        encoder(backbone=name, adapters=True)
