"""The losses against their formulas in float64: eq. 4 of the paper, and those of S3-Rec."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from userclue.losses import attribute_cross_entropy, negative_cosine, pair_cross_entropy


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


def drawn(n=6, seed=0):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_pair_cross_entropy_is_torchs_on_the_products():
    x, y = drawn(seed=1), drawn(seed=2)
    torch.testing.assert_close(pair_cross_entropy(x, y), cross_entropy(x @ y.T, torch.arange(len(x))))
    alike = torch.zeros(len(x), len(x), dtype=torch.bool)
    alike[0, 2] = alike[1, 1] = True  # a row is always its own positive
    theirs = [-torch.log_softmax((x[b] @ y.T)[torch.arange(len(x)) != 2], 0)[0] for b in (0,)]
    theirs += [-torch.log_softmax(x[b] @ y.T, 0)[b] for b in range(1, len(x))]
    torch.testing.assert_close(pair_cross_entropy(x, y, alike), torch.stack(theirs).mean())
    assert float(pair_cross_entropy(x[:1], y[:1])) == float(pair_cross_entropy(x[:0], y[:0])) == 0


OWNERS, VALUES = torch.tensor([0, 0, 2, 3, 3, 3]), torch.tensor([4, 1, 0, 2, 3, 6])


def attribute_loss(x, table, times, candidates, scale):
    """The formula, a row at a time."""
    total = weight = 0.0
    for m in range(len(x)):
        own = VALUES[m == OWNERS].tolist()
        others = scale * sum((x[m] @ table[k]).exp() for k in candidates if k not in own)
        if own:
            each = [-((x[m] @ table[a]).exp() / ((x[m] @ table[a]).exp() + others)).log() for a in own]
            total, weight = total + times[m] * sum(each) / len(each), weight + times[m]
    return total / weight


@pytest.mark.parametrize("times", [None, [3.0, 7.0, 1.0, 2.0]])
@pytest.mark.parametrize("sampled", [None, [0, 1, 5, 6]])
def test_attribute_cross_entropy_is_its_formula(times, sampled):
    x, table = drawn(4, seed=1).requires_grad_(), drawn(7, seed=2).requires_grad_()
    given = None if times is None else torch.tensor(times, dtype=x.dtype)
    ours = attribute_cross_entropy(x, table, OWNERS, VALUES, given, None if sampled is None else torch.tensor(sampled))
    theirs = attribute_loss(x, table, times or [1.0] * 4, sampled or range(7), 7 / 4 if sampled else 1.0)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(*(torch.autograd.grad(loss, (x, table)) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_row_that_has_every_value_has_nothing_to_be_told_from():
    x, table = drawn(1, seed=1).requires_grad_(), drawn(2, seed=2).requires_grad_()
    loss = attribute_cross_entropy(x, table, torch.tensor([0, 0]), torch.tensor([0, 1]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(x.grad).all()
    none = torch.zeros(0, dtype=torch.int64)
    assert float(attribute_cross_entropy(x, table, none, none).detach()) == 0
