"""Geometry against closed forms and against its definition written out."""

import numpy as np
import pytest

from userclue.metrics.geometry import alignment, effective_rank, normalised, std_sqrt_d, uniformity


def gaussian(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def test_evenly_spread_directions_are_healthy() -> None:
    z = gaussian(4000, 16)
    assert std_sqrt_d(z) == pytest.approx(1, abs=0.01)
    assert effective_rank(z) == pytest.approx(16, abs=0.05)


def test_one_direction_is_collapsed() -> None:
    z = np.outer(np.linspace(1, 2, 50), [3.0, -1.0, 2.0])
    assert std_sqrt_d(z) == pytest.approx(0, abs=1e-7)
    assert uniformity(z) == pytest.approx(0, abs=1e-7)
    assert effective_rank(z) == pytest.approx(1)


def test_few_dimensions_deceive_the_std_but_not_the_rank() -> None:
    z = gaussian(2000, 4) @ gaussian(4, 64, 1)
    assert std_sqrt_d(z) > 0.9
    assert effective_rank(z) < 4.001


def test_effective_rank_of_known_singular_values() -> None:
    left, _ = np.linalg.qr(gaussian(30, 3) - gaussian(30, 3).mean(axis=0))
    left, _ = np.linalg.qr(left - left.mean(axis=0))
    right, _ = np.linalg.qr(gaussian(5, 3, 2))
    values = np.array([5.0, 3.0, 2.0])
    share = values / 10
    assert effective_rank((left * values) @ right.T + 7.0) == pytest.approx(np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_not_spread(dtype: type[np.float32] | type[np.float64]) -> None:
    same = np.tile(gaussian(1, 64)[0].astype(dtype), (500, 1))
    wobble = same * (1 + np.finfo(dtype).eps * np.random.default_rng(1).integers(-1, 2, same.shape)).astype(dtype)
    assert effective_rank(wobble.astype(dtype)) == 0
    line = (np.outer(np.linspace(1, 2, 500), same[0])).astype(dtype)
    assert effective_rank(line) == pytest.approx(1)


def test_alignment_of_same_unrelated_and_opposite_views() -> None:
    z = gaussian(20, 8)
    assert alignment(z, 3 * z) == pytest.approx(0, abs=1e-12)
    assert alignment(z, -z) == pytest.approx(4)
    assert alignment(np.array([[1.0, 0]]), np.array([[0, 5.0]])) == pytest.approx(2)


def test_uniformity_equals_its_definition_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    z = gaussian(23, 5)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    pairs = [np.exp(-2 * np.square(unit[i] - unit[j]).sum()) for i in range(23) for j in range(i + 1, 23)]
    monkeypatch.setattr("userclue.metrics.geometry._ROWS_AT_ONCE", 7)
    assert uniformity(z) == pytest.approx(np.log(np.mean(pairs)))


def test_single_and_zero_vectors_are_defined() -> None:
    one = gaussian(1, 4)
    assert (std_sqrt_d(one), uniformity(one), effective_rank(one)) == (0, 0, 0)
    zeros = np.zeros((3, 4))
    assert (std_sqrt_d(zeros), uniformity(zeros), effective_rank(zeros), alignment(zeros, zeros)) == (0, 0, 0, 0)
    assert uniformity(np.array([[0.0, 0], [1, 0]])) == pytest.approx(-2)


def test_extreme_lengths_keep_their_direction() -> None:
    z = np.array([[3e-200, 4e-200], [3e200, 4e200]])
    np.testing.assert_allclose(normalised(z), [[0.6, 0.8], [0.6, 0.8]])


def test_empty_and_broken_clouds_are_refused() -> None:
    for cloud, message in [(np.zeros((0, 3)), "neither empty"), (np.zeros(3), "must be"), (np.array([[0, np.nan]]), "vector 0 holds NaN")]:
        with pytest.raises(ValueError, match=message):
            effective_rank(cloud)
    with pytest.raises(ValueError, match="pair up"):
        alignment(np.ones((2, 3)), np.ones((3, 3)))
