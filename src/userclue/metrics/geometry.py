"""The shape of a cloud of user vectors: has it collapsed, into a point or into few dimensions?

Inputs are float arrays [B, D]; all arithmetic is in float64. A zero vector has no direction and stays zero when normalised.
A cloud of a single vector has no spread: its std_sqrt_d and effective_rank are 0, as for a collapsed one, and its uniformity is 0.
An empty cloud, and NaN or infinity in one, raise ValueError.
"""

import numpy as np

_ROWS_AT_ONCE = 1024


def std_sqrt_d(z: np.ndarray) -> float:
    """Standard deviation (over B, divided by B) of each channel of z/||z||, mean over the channels, times sqrt(D).

    About 1 for directions spread evenly, 0 when all vectors point the same way (SimSiam, Chen & He 2021, section 4.1).
    It does not see a cloud that fills only a few dimensions: look at `effective_rank` too.
    """
    return float(normalised(z).std(axis=0).mean() * np.sqrt(np.shape(z)[1]))


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared distance of the normalised pairs a[i], b[i]: 0 when both views agree, 2 for unrelated, 4 for opposite ones.

    Wang & Isola 2020, equation 1 with alpha = 2.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"views must pair up; found {np.shape(a)} and {np.shape(b)}")
    return float(np.square(normalised(a) - normalised(b)).sum(axis=1).mean())


def uniformity(z: np.ndarray) -> float:
    """Natural logarithm of the mean of exp(-2 ||z_i - z_j||^2) over all pairs i < j of normalised vectors.

    0 when collapsed, about -4 when spread evenly over a sphere of many dimensions. Wang & Isola 2020, equation 2 with t = 2.
    """
    z = normalised(z)
    n = len(z)
    if n == 1:
        return 0.0
    length = np.square(z).sum(axis=1)
    total = 0.0
    for begin in range(0, n, _ROWS_AT_ONCE):
        rows = slice(begin, min(n, begin + _ROWS_AT_ONCE))
        # Each pair once: a chunk meets only itself and what comes after it.
        squared = np.maximum(length[rows, None] + length[None, begin:] - 2.0 * (z[rows] @ z[begin:].T), 0.0)
        pairs = np.exp(-2.0 * squared)
        total += float(np.triu(pairs, k=1).sum())
    return float(np.log(total / (n * (n - 1) / 2)))


def effective_rank(z: np.ndarray) -> float:
    """exp of the entropy of the singular values, divided by their sum, of z with its mean taken off: how many dimensions it fills.

    Roy & Vetterli 2007 define it on any matrix; here the mean is removed first, so that a cloud far from the origin does not pass for
    a line, and lengths are kept. From 0 (a point) and 1 (a line) up to D (isotropic, B well above D; never above B - 1).
    Spread within the rounding of the input's own type counts as none.
    """
    cloud = _checked(z)
    given = np.asarray(z).dtype
    precision = np.finfo(given if np.issubdtype(given, np.floating) else np.float64).eps
    noise = np.linalg.norm(cloud) * precision * np.sqrt(max(cloud.shape))
    cloud = cloud - cloud.mean(axis=0)
    cloud -= cloud.mean(axis=0)  # what rounding left of a large mean would look like one more dimension
    values = np.linalg.svd(cloud, compute_uv=False)
    values = values[values > noise]
    if not len(values):
        return 0.0
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def normalised(z: np.ndarray) -> np.ndarray:
    """z/||z|| row by row, float64 [B, D]; rows of zeros stay zero."""
    cloud = _checked(z)
    # Scaling by the largest entry first keeps squares of very small and very large numbers within range.
    largest = np.abs(cloud).max(axis=1, keepdims=True)
    cloud = cloud / np.where(largest > 0, largest, 1.0)
    length = np.linalg.norm(cloud, axis=1, keepdims=True)
    return np.asarray(cloud / np.where(length > 0, length, 1.0))


def _checked(z: np.ndarray) -> np.ndarray:
    cloud = np.asarray(z, np.float64)
    if cloud.ndim != 2 or 0 in cloud.shape:
        raise ValueError(f"vectors must be [B, D], neither empty; found {cloud.shape}")
    if not np.isfinite(cloud).all():
        row = int(np.flatnonzero(~np.isfinite(cloud).all(axis=1))[0])
        raise ValueError(f"vector {row} holds NaN or infinity; the model diverged or its input is broken")
    return cloud
