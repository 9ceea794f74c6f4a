"""The negative cosine against eq. 4 of the paper in float64."""

import numpy as np
import pytest
import torch

from userclue.losses import negative_cosine


def rows(seed, n=50, d=7):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.random.default_rng(seed).uniform(0.01, 100, (n, 1))


def formula(p, z):
    return -np.mean([np.dot(a, b) / np.sqrt(np.dot(a, a)) / np.sqrt(np.dot(b, b)) for a, b in zip(p, z, strict=True)])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_formula(dtype, tolerance):
    p, z = rows(0), rows(1)
    loss = negative_cosine(torch.tensor(p, dtype=dtype), torch.tensor(z, dtype=dtype))
    assert loss.shape == ()
    assert float(loss) == pytest.approx(formula(p, z), abs=tolerance)


def test_ends_of_the_range_and_scale():
    z = torch.tensor(rows(2))
    assert float(negative_cosine(z * 3, z)) == pytest.approx(-1)
    assert float(negative_cosine(-z, z)) == pytest.approx(1)
    assert float(negative_cosine(torch.eye(4), torch.eye(4).roll(1, 0))) == 0


def test_gradient_is_that_of_the_formula():
    p, z = torch.tensor(rows(3, 5), requires_grad=True), torch.tensor(rows(4, 5))
    negative_cosine(p, z).backward()
    # d(-cos)/dp = -(ẑ - p̂ cos) / |p|, and the mean over B rows.
    unit_p, unit_z = (x.detach() / x.detach().norm(dim=1, keepdim=True) for x in (p, z))
    cosine = (unit_p * unit_z).sum(dim=1, keepdim=True)
    expected = -(unit_z - unit_p * cosine) / p.detach().norm(dim=1, keepdim=True) / 5
    torch.testing.assert_close(p.grad, expected, rtol=1e-10, atol=1e-12)


def test_a_zero_vector_gives_no_nan():
    p = torch.zeros(2, 3, requires_grad=True)
    loss = negative_cosine(p, torch.ones(2, 3))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(p.grad).all()
