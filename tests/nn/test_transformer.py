"""The transformer against torch.nn.TransformerEncoder, ragged batches against padded and single ones, UR alone against all tokens."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from userclue.nn import attention, transformer

NORMS = pytest.mark.parametrize("norm", ["pre", "post"])
LENGTHS = (3, 9, 1, 14, 5)

pytestmark = pytest.mark.usefixtures("form")


@NORMS
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_states_are_those_of_torch(encoder, histories, packed, oracle, norm, causal, heads):
    made, given_ = encoder(norm=norm, causal=causal, heads=heads), histories(*LENGTHS)
    batch = packed(given_)
    states = made.states(batch).split((batch.offsets[1:] - batch.offsets[:-1]).tolist())
    for ours, theirs in zip(states, oracle(made, given_), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@NORMS
def test_user_vectors_are_the_oracles_states_at_ur(encoder, histories, packed, oracle, norm):
    made, given_ = encoder(norm=norm, blocks=3), histories(*LENGTHS)
    theirs = torch.stack([states[-1] for states in oracle(made, given_)])
    torch.testing.assert_close(made(packed(given_)), theirs, atol=1e-5, rtol=0)


@NORMS
def test_path_with_dropout_attends_as_the_path_without(encoder, histories, packed, oracle, norm):
    # A probability below 2^-17 rounds to none dropped, yet takes the path that forms the attention weights itself.
    made, given_ = encoder(norm=norm, dropout=1e-6), histories(*LENGTHS)
    theirs = torch.stack([states[-1] for states in oracle(made, given_)])
    ours = made(packed(given_), torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@NORMS
@pytest.mark.parametrize("blocks", [1, 2])
def test_ur_alone_equals_all_tokens_with_gradients(encoder, histories, packed, norm, blocks):
    made = encoder(norm=norm, blocks=blocks).double()
    batch = packed(histories(*LENGTHS))
    weights = torch.randn(len(batch), 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    results = []
    for vectors in (made(batch), made.states(batch)[batch.offsets[1:] - 1]):
        made.zero_grad()
        (vectors * weights).sum().backward()
        results.append((vectors.detach(), {name: parameter.grad for name, parameter in made.named_parameters()}))
    (alone, alone_gradients), (chosen, chosen_gradients) = results
    torch.testing.assert_close(alone, chosen, atol=1e-10, rtol=0)
    for name, gradient in chosen_gradients.items():
        torch.testing.assert_close(alone_gradients[name], gradient, atol=1e-9, rtol=1e-9, msg=name)


@NORMS
def test_gradients_are_those_of_torch(encoder, histories, packed, oracle, norm):
    made, given_ = encoder(norm=norm).double(), histories(*LENGTHS)
    weights = torch.randn(len(given_), 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    tables = list(made.embedding.parameters())
    ours = torch.autograd.grad((made(packed(given_)) * weights).sum(), tables)
    theirs = torch.stack([states[-1] for states in oracle(made, given_)])
    for mine, other in zip(ours, torch.autograd.grad((theirs * weights).sum(), tables), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-9, rtol=1e-9)


@NORMS
def test_a_vector_does_not_depend_on_its_batch(encoder, histories, packed, norm):
    made, given_ = encoder(norm=norm), histories(*LENGTHS)
    together = made(packed(given_))
    reversed_ = made(packed(given_[::-1])).flip(0)
    alone = torch.cat([made(packed([history])) for history in given_])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, reversed_, atol=1e-5, rtol=0)


@NORMS
def test_equal_lengths_equal_the_ragged_path(encoder, histories, packed, norm):
    made = encoder(norm=norm)
    equal = histories(4, 4, 4)
    ragged = [*equal, *histories(7, seed=2)]
    torch.testing.assert_close(made(packed(equal)), made(packed(ragged))[:3], atol=1e-5, rtol=0)
    torch.testing.assert_close(made.states(packed(equal)), made.states(packed(ragged))[:15], atol=1e-5, rtol=0)


def test_order_and_recency_matter(encoder, histories, packed):
    made, (history,) = encoder(), histories(6)
    vectors = made(packed([history, history[::-1], history[1:], history[:-1]]))
    distances = torch.cdist(vectors, vectors) + torch.eye(4)
    assert distances.min() > 1e-3


def test_only_the_latest_items_count(encoder, histories, packed):
    made, (history,) = encoder(), histories(14)
    short, long = made(packed([history[-9:]])), made(packed([history]))
    assert torch.equal(short, long)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6), seed=st.integers(0, 99), norm=st.sampled_from(["pre", "post"]))
def test_any_lengths(encoder, histories, packed, oracle, lengths, seed, norm):
    made, given_ = encoder(seed, norm=norm), histories(*lengths, seed=seed)
    theirs = torch.stack([states[-1] for states in oracle(made, given_)])
    torch.testing.assert_close(made(packed(given_)), theirs, atol=1e-5, rtol=0)


def test_dropout_acts_on_attention_its_output_and_twice_in_the_feed_forward(encoder, histories, packed, monkeypatch):
    """As torch.nn.TransformerEncoderLayer and SASRec: attention weights, attention output, hidden layer, output of the network."""
    seen = []

    def recording(module, name):
        original = getattr(module, name)

        def record(*arguments):
            seen.append((name, *(tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in arguments[:-1])))
            return original(*arguments)

        monkeypatch.setattr(module, name, record)

    monkeypatch.setenv("USERCLUE_KERNELS", "off")
    recording(attention, "dropout")
    recording(transformer, "dropout")
    encoder(dropout=0.3).states(packed(histories(2, 4)), torch.Generator().manual_seed(0))
    assert seen == [("dropout", shape, 0.3) for shape in ((2, 4, 5, 5), (8, 16), (8, 16), (8, 16))] * 2


def test_without_generator_dropout_is_off(encoder, histories, packed):
    batch = packed(histories(*LENGTHS))
    weights = encoder(dropout=0.0).state_dict()
    dropping = encoder(dropout=0.7)
    dropping.load_state_dict(weights)
    still = encoder(dropout=0.0)(batch)
    assert torch.equal(dropping(batch), still)
    first, second, other = (dropping(batch, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, still)


def test_reset_draws_every_weight_from_the_generator(encoder):
    first, second = encoder(), encoder(seed=9)
    for made in (first, second):
        torch.manual_seed(int(np.random.default_rng().integers(2**31)))
        made.reset(torch.Generator().manual_seed(4))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    other = encoder()
    other.reset(torch.Generator().manual_seed(5))
    assert not torch.equal(other.backbone.blocks[0].qkv.weight, first.backbone.blocks[0].qkv.weight)


def test_a_norm_closes_a_pre_norm_stack_only(encoder):
    assert isinstance(encoder(norm="pre").backbone.norm, torch.nn.LayerNorm)
    assert not list(encoder(norm="post").backbone.norm.parameters())
