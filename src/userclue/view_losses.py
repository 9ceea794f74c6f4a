"""Losses of two views that need no predictor: pure functions of projections z1, z2 [B, W], row b of both being user b.

InfoNCE: Chen et al. 2020 (SimCLR), equation 1. VICReg: Bardes et al. 2022, section 4.1. Barlow Twins: Zbontar et al. 2021, equation 1.
"""

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, cross_entropy, mse_loss, normalize, relu

STD_FLOOR = 1e-4  # under VICReg's square root, its authors' value


def info_nce(z1: Tensor, z2: Tensor, temperature: float, alike: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of finding each row's other view among all 2B - 1 other rows, by cosine over `temperature` (NT-Xent).

    alike: bool [2B, 2B], pairs of rows (first views, then second ones) that are no negatives of each other; a row's other view is
    always its positive.
    """
    rows = normalize(torch.cat([z1, z2]), dim=-1)
    here = torch.arange(len(rows), device=rows.device)
    positive = here.roll(len(z1))
    left_out = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    if alike is not None:
        left_out = left_out | alike
        left_out[here, positive] = False
    return cross_entropy((rows @ rows.T / temperature).masked_fill(left_out, float("-inf")), positive)


def vicreg(z1: Tensor, z2: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> Tensor:
    """Weighted sum of the views' mean squared distance, of `variance_hinge` and of `covariance_square` (equation 6).

    The hinge is the mean of the two views', as in the authors' code, where the paper writes their sum.
    """
    hinge = (variance_hinge(z1) + variance_hinge(z2)) / 2
    return invariance * mse_loss(z1, z2) + variance * hinge + covariance * (covariance_square(z1) + covariance_square(z2))


def variance_hinge(z: Tensor) -> Tensor:
    """How far the standard deviation (over B - 1) of each column stays below 1, mean over the columns (equation 1, gamma = 1)."""
    return relu(1 - torch.sqrt(z.var(dim=0) + STD_FLOOR)).mean()


def covariance_square(z: Tensor) -> Tensor:
    """Sum of the squared covariances (over B - 1) of different columns, divided by the width (equations 3 and 4)."""
    centred = z - z.mean(dim=0)
    return _off_diagonal(centred.T @ centred / (len(z) - 1)).square().sum() / z.shape[1]


def barlow_twins(z1: Tensor, z2: Tensor, redundancy: float = 5e-3) -> Tensor:
    """Σ (1 - C_ii)² + `redundancy` · Σ_{i≠j} C_ij², C the correlation over the batch of the columns of z1 with those of z2."""
    columns1, columns2 = (batch_norm(z, None, None, training=True) for z in (z1, z2))
    correlation = columns1.T @ columns2 / len(z1)
    return (1 - correlation.diagonal()).square().sum() + redundancy * _off_diagonal(correlation).square().sum()


def _off_diagonal(square: Tensor) -> Tensor:
    return square - torch.diag(square.diagonal())
