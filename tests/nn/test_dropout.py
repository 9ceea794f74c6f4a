"""Dropout: the rate, the mean, independence of every element, and where the randomness comes from."""

import math

import pytest
import torch

from userclue.nn.dropout import dropout

pytestmark = pytest.mark.usefixtures("form")

N = 200_000
BOUND = 5  # standard deviations; one check in a million would fail by chance, and the seed is fixed


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dropped(p: float, seed: int = 0, n: int = N) -> torch.Tensor:
    return (dropout(torch.ones(n), p, seeded(seed)) == 0).double()


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_rate_lies_within_binomial_bounds_in_each_of_the_four_places_of_a_draw(p):
    zeros = dropped(p)
    for place in range(4):
        part = zeros[place::4]
        assert abs(float(part.mean()) - p) < BOUND * math.sqrt(p * (1 - p) / len(part))


@pytest.mark.parametrize("p", [0.1, 0.25, 1 / 3, 0.5, 0.9])
def test_kept_elements_are_scaled_so_that_the_mean_stays_exact(p):
    levels = 2**16
    rounded = round(p * levels) / levels
    out = dropout(torch.ones(1000), p, seeded())
    assert out.unique().tolist() == [0.0, pytest.approx(1 / (1 - rounded), rel=1e-6)]
    assert abs(rounded - p) <= 0.5 / levels


def test_without_generator_or_probability_nothing_is_touched():
    x = torch.randn(5, 3, generator=seeded())
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, seeded()) is x


def test_same_seed_same_mask_whatever_the_global_seed():
    x = torch.ones(64, 9)
    torch.manual_seed(1)
    first, state = dropout(x, 0.5, seeded(3)), torch.random.get_rng_state()
    torch.manual_seed(2)
    second = dropout(x, 0.5, seeded(3))
    assert torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)  # nor does it consume the global one
    assert not torch.equal(first, dropout(x, 0.5, seeded(4)))


def test_successive_layers_and_steps_are_independent():
    generator = seeded()
    masks = [(dropout(torch.ones(N), 0.5, generator) == 0).double() - 0.5 for _ in range(3)]
    masks += [dropped(0.5, seed) - 0.5 for seed in (1, 2)]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert abs(float((one * other).mean()) * 4) < BOUND / math.sqrt(N)


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 64])
def test_elements_are_independent(p, lag):
    centred = dropped(p) - p
    correlation = float((centred[lag:] * centred[:-lag]).mean()) / (p * (1 - p))
    assert abs(correlation) < BOUND / math.sqrt(N - lag)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3,), (5,), (7, 3), (0, 4), (3, 5, 1, 7)])
def test_any_shape(shape):
    out = dropout(torch.full(shape, 2.0), 0.25, seeded())
    assert out.shape == shape
    assert torch.isin(out, torch.tensor([0.0, 2.0 / 0.75])).all()


def test_last_elements_of_an_odd_size_are_dropped_at_the_same_rate():
    generator = seeded()
    zeros = torch.stack([dropout(torch.ones(7), 0.5, generator) == 0 for _ in range(4000)]).double().mean(dim=0)
    assert ((zeros - 0.5).abs() < BOUND * 0.5 / math.sqrt(4000)).all()


def test_values_and_gradients_are_those_of_the_mask():
    x = torch.randn(3001, generator=seeded(1), requires_grad=True)
    weight = torch.randn(3001, generator=seeded(3))
    mask = dropout(torch.ones(3001), 0.3, seeded())
    out = dropout(x, 0.3, seeded())
    torch.testing.assert_close(out.detach(), x.detach() * mask, rtol=1e-6, atol=0)
    out.backward(weight)
    torch.testing.assert_close(x.grad, weight * mask, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_kept_and_share_the_mask_of_the_torch_form(dtype, monkeypatch):
    monkeypatch.setenv("USERCLUE_KERNELS", "off")
    out = dropout(torch.ones(1000, dtype=dtype), 0.5, seeded())
    assert out.dtype == dtype
    assert torch.equal(out.float(), dropout(torch.ones(1000), 0.5, seeded()))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_mask(threads):
    before = torch.get_num_threads()
    whole = dropout(torch.ones(N), 0.5, seeded())
    torch.set_num_threads(threads)
    try:
        assert torch.equal(dropout(torch.ones(N), 0.5, seeded()), whole)
    finally:
        torch.set_num_threads(before)


def test_every_probability_the_settings_allow():
    nearly_all = dropout(torch.ones(1000), 1 - 2**-30, seeded())
    assert torch.isfinite(nearly_all).all()
    assert torch.equal(dropout(torch.ones(1000), 2**-30, seeded()), torch.ones(1000))


def test_input_that_is_not_contiguous():
    x = torch.ones(6, 5).T
    assert torch.equal(dropout(x, 0.5, seeded()), dropout(torch.ones(5, 6), 0.5, seeded()))
