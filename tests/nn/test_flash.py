"""The fused form against the plain one, on CPU tensors: the same numbers and gradients, and dropout from the given generator alone."""

import pytest
import torch
from torch import Tensor

from userclue.nn.attention import attend
from userclue.nn.flash import attend_fused
from userclue.nn.layout import Layout

HEADS, DIM = 2, 8
RAGGED, FULL = (3, 1, 6, 2), (4, 4, 4)


def layout_of(lengths: tuple[int, ...]) -> Layout:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Layout(offsets, max(lengths), int(offsets[-1]))


def rows(lengths: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(sum(lengths), 3 * DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype).requires_grad_()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("lengths", [RAGGED, FULL, (1,)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_values_and_gradients_equal_a_sequence_at_a_time_by_the_formula(lengths: tuple[int, ...], causal: bool) -> None:
    qkv = rows(lengths)
    mixed = []
    for part in qkv.split(lengths):
        q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(0, 1) for x in part.chunk(3, dim=-1))
        scores = q @ k.transpose(-1, -2) / (DIM / HEADS) ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones(len(part), len(part)).triu(1).bool(), -torch.inf)
        mixed.append((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    expected = torch.cat(mixed)
    found = attend_fused(qkv, HEADS, layout_of(lengths), 0.5, None, causal)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, attend(qkv, HEADS, layout_of(lengths), 0.5, None, causal))
    upstream = torch.randn(expected.shape, generator=seeded(1), dtype=torch.float64)
    (ours,), (theirs,) = (torch.autograd.grad(out, qkv, upstream) for out in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_half_precision_stays_near() -> None:
    exact = attend_fused(rows(RAGGED), HEADS, layout_of(RAGGED), 0.0, None)
    rough = attend_fused(rows(RAGGED, torch.bfloat16), HEADS, layout_of(RAGGED), 0.0, None)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.double(), exact, atol=0.03, rtol=0.03)


def test_dropout_is_the_generators_alone() -> None:
    qkv, layout = rows(RAGGED), layout_of(RAGGED)
    found = []
    for shared_seed in (1, 2):
        torch.manual_seed(shared_seed)
        before = torch.get_rng_state()
        generator = seeded(7)
        found.append([attend_fused(qkv, HEADS, layout, 0.5, generator) for _ in range(2)])
        assert torch.equal(torch.get_rng_state(), before)
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(*found[0])  # the generator moves on
    assert not torch.equal(attend_fused(qkv, HEADS, layout, 0.5, seeded(8)), found[0][0])


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_weights_at_its_rate_and_keeps_the_mean(p: float) -> None:
    """With all values one, a token's result is the sum of its kept weights, each 1/L, over 1 − p."""
    lengths = (5, 50) * 20
    qkv = torch.zeros(sum(lengths), 3 * DIM, dtype=torch.float64)
    qkv[:, 2 * DIM :] = 1.0
    kept = attend_fused(qkv, HEADS, layout_of(lengths), p, seeded(3))
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.02)
    # Weights of 1/L kept or not: variance p / (1 − p) / L.
    long = torch.cat(kept.split(lengths)[1::2])[:, :: DIM // HEADS]
    assert float(long.var()) == pytest.approx(p / (1 - p) / 50, rel=0.1)
