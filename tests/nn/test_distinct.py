"""The distinct rows of a batch against NumPy's, in both forms."""

import numpy as np
import pytest
import torch

from userclue.nn.distinct import distinct

pytestmark = pytest.mark.usefixtures("form")

LARGEST = 2**31 - 1


@pytest.mark.parametrize("table", [1, 2, 2**11, 2**11 + 1, 646_000, LARGEST, 2**40])
@pytest.mark.parametrize("n", [0, 1, 7, 6_528])
def test_rows_rise_and_each_token_finds_its_own(n, table):
    rows = np.random.default_rng(n).integers(0, table, n)
    rows[n // 2 :] = rows[: n - n // 2]  # two views of the same tokens
    rows[:1], rows[-1:] = table - 1, 0
    met, places = distinct(torch.from_numpy(rows), table)
    expected, inverse = np.unique(rows, return_inverse=True)
    assert met.dtype == places.dtype == torch.int64
    assert np.array_equal(met.numpy(), expected)
    assert np.array_equal(places.numpy(), inverse)


def test_tokens_need_not_lie_side_by_side():
    rows = torch.tensor([[5, 9], [3, 9], [5, 9]])[:, 0]
    met, places = distinct(rows, 10)
    assert (met.tolist(), places.tolist()) == ([3, 5], [1, 0, 1])
    assert rows.tolist() == [5, 3, 5]
