"""InfoNCE, VICReg and Barlow Twins against their formulas in float64; against another library: test_lightly.py."""

import numpy as np
import pytest
import torch
from torch import Tensor

from userclue.view_losses import barlow_twins, covariance_square, info_nce, variance_hinge, vicreg

B, W = 24, 7
SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


def views(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two related clouds whose columns have a mean, correlate, and spread on both sides of 1."""
    draw = np.random.default_rng(seed)
    first = draw.normal(size=(B, W)) @ draw.normal(size=(W, W)) * draw.uniform(0.05, 1, W) + draw.normal(size=W)
    second = first + 0.5 * draw.normal(size=(B, W))
    return torch.tensor(first, dtype=dtype), torch.tensor(second, dtype=dtype)


def info_nce_by_loops(z1: Tensor, z2: Tensor, temperature: float, alike: np.ndarray | None = None) -> float:
    rows = np.concatenate([z1.numpy(), z2.numpy()])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    losses = []
    for i in range(2 * B):
        positive = (i + B) % (2 * B)
        others = [j for j in range(2 * B) if j != i and (j == positive or alike is None or not alike[i, j])]
        scores = np.array([rows[i] @ rows[j] / temperature for j in others])
        losses.append(np.log(np.exp(scores).sum()) - rows[i] @ rows[positive] / temperature)
    return float(np.mean(losses))


@SEEDS
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_info_nce(seed: int, temperature: float) -> None:
    z1, z2 = views(seed)
    expected = info_nce_by_loops(z1, z2, temperature)
    assert float(info_nce(z1, z2, temperature)) == pytest.approx(expected, abs=1e-12)
    assert float(info_nce(z1.float(), z2.float(), temperature)) == pytest.approx(expected, rel=1e-5)


@SEEDS
def test_rows_that_are_alike_are_no_negatives(seed: int) -> None:
    z1, z2 = views(seed)
    person = np.random.default_rng(seed).integers(0, 10, B)
    alike = (person[:, None] == person) & True
    alike = np.tile(alike, (2, 2))
    loss = info_nce(z1, z2, 0.2, torch.tensor(alike))
    assert float(loss) == pytest.approx(info_nce_by_loops(z1, z2, 0.2, alike), abs=1e-12)
    assert float(loss) < float(info_nce(z1, z2, 0.2))


def test_a_row_like_all_others_loses_nothing_and_gives_no_nan() -> None:
    z1, z2 = (z.requires_grad_() for z in views(0))
    loss = info_nce(z1, z2, 0.1, torch.ones(2 * B, 2 * B, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0
    assert z1.grad is not None
    assert torch.equal(z1.grad, torch.zeros_like(z1))


def test_alike_changes_no_gradient_of_a_negative_left_in() -> None:
    """Left out means left out: no gradient reaches a row through a pair that is masked."""
    z1, z2 = (z.requires_grad_() for z in views(1))
    alike = torch.zeros(2 * B, 2 * B, dtype=torch.bool)
    alike[:, 0] = alike[0, :] = alike[:, B] = alike[B, :] = True  # user 0 is nobody's negative, and has none
    info_nce(z1, z2, 0.1, alike).backward()
    assert z1.grad is not None
    assert float(z1.grad[0].abs().max()) < 1e-12
    assert float(z1.grad[1].abs().max()) > 1e-4


def vicreg_by_formula(z1: Tensor, z2: Tensor, weights: tuple[float, float, float]) -> float:
    a, b = z1.numpy(), z2.numpy()
    invariance = np.mean([(x - y) ** 2 for x, y in zip(a.ravel(), b.ravel(), strict=True)])
    hinge = covariance = 0.0
    for z in (a, b):
        hinge += np.mean([max(0.0, 1 - np.sqrt(np.var(column, ddof=1) + 1e-4)) for column in z.T]) / 2
        table = np.cov(z.T, ddof=1)
        covariance += sum(table[i, j] ** 2 for i in range(W) for j in range(W) if i != j) / W
    return float(weights[0] * invariance + weights[1] * hinge + weights[2] * covariance)


@SEEDS
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_vicreg(seed: int, weights: tuple[float, float, float]) -> None:
    z1, z2 = views(seed)
    expected = vicreg_by_formula(z1, z2, weights)
    assert expected > 1e-3
    assert float(vicreg(z1, z2, *weights)) == pytest.approx(expected, rel=1e-12)
    assert float(vicreg(z1.float(), z2.float(), *weights)) == pytest.approx(expected, rel=1e-5)


def test_the_parts_of_vicreg() -> None:
    spread = torch.tensor([[-1.0, -2.0], [1.0, 2.0]], dtype=torch.float64)  # standard deviations √2 and √8, covariance 4
    assert float(variance_hinge(spread)) == 0
    assert float(covariance_square(spread)) == pytest.approx((4**2 + 4**2) / 2)
    assert float(variance_hinge(torch.zeros(5, 3, dtype=torch.float64))) == pytest.approx(1 - 0.01)
    assert float(vicreg(spread, spread, covariance=0)) == 0
    assert float(covariance_square(spread + 100)) == pytest.approx(16)


@SEEDS
@pytest.mark.parametrize("redundancy", [5e-3, 0.0, 1.0])
def test_barlow_twins(seed: int, redundancy: float) -> None:
    z1, z2 = views(seed)
    table = np.corrcoef(z1.numpy().T, z2.numpy().T)[:W, W:]
    expected = sum((1 - table[i, i]) ** 2 for i in range(W))
    expected += redundancy * sum(table[i, j] ** 2 for i in range(W) for j in range(W) if i != j)
    # Batch norm adds 1e-5 to each variance, the smallest of which is about 0.1 here.
    assert float(barlow_twins(z1, z2, redundancy)) == pytest.approx(expected, rel=1e-3)
    scaled = barlow_twins(z1 * 1000, z2 * 1000, redundancy)
    assert float(scaled) == pytest.approx(expected, rel=1e-8)
    assert float(barlow_twins(z1.float() * 1000, z2.float() * 1000, redundancy)) == pytest.approx(expected, rel=1e-5)


def test_barlow_twins_knows_no_shift_and_no_scale_and_is_least_for_equal_uncorrelated_columns() -> None:
    z1, z2 = (1000 * z for z in views(3))
    moved = z1 * torch.linspace(0.5, 3, W, dtype=torch.float64) + 7
    torch.testing.assert_close(barlow_twins(moved, z2), barlow_twins(z1, z2), rtol=1e-8, atol=0)
    columns, _ = torch.linalg.qr(torch.randn(B, W + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    centred = columns - columns.mean(dim=0)
    white, _ = torch.linalg.qr(centred)
    assert float(barlow_twins(white[:, :W] * 1000, white[:, :W] * 1000)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("loss", [lambda a, b: info_nce(a, b, 0.1), vicreg, barlow_twins], ids=["infonce", "vicreg", "barlow"])
def test_gradients_are_those_of_finite_differences(loss) -> None:  # type: ignore[no-untyped-def]
    z1, z2 = (z[:6, :4].clone().requires_grad_() for z in views(4))
    assert torch.autograd.gradcheck(loss, (z1, z2))


@pytest.mark.parametrize("loss", [lambda a, b: info_nce(a, b, 0.1), vicreg, barlow_twins], ids=["infonce", "vicreg", "barlow"])
def test_views_may_be_exchanged_and_users_reordered(loss) -> None:  # type: ignore[no-untyped-def]
    z1, z2 = views(5)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(z2, z1), loss(z1, z2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss(z1[order], z2[order]), loss(z1, z2), rtol=1e-12, atol=1e-12)
