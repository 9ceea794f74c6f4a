"""Attention on packed rows in PyTorch, against a float64 formula; and the mask of its dropout, read off its result."""

import math

import pytest
import torch
from torch import Tensor

from userclue.nn.attention import attend, attend_last
from userclue.nn.layout import Layout

BOUND = 5


def layout_of(lengths: list[int]) -> Layout:
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    return Layout(offsets, max(lengths), sum(lengths))


def formula(q: Tensor, k: Tensor, v: Tensor, heads: int, rows: Tensor, offsets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax(QKᵀ/√d) V sequence by sequence and head by head; `mask` [heads, queries, longest] multiplies the weights."""
    width, out = q.shape[1] // heads, torch.zeros_like(q)
    for b in range(len(offsets) - 1):
        mine, keys = slice(int(rows[b]), int(rows[b + 1])), slice(int(offsets[b]), int(offsets[b + 1]))
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            weights = (q[mine, part] @ k[keys, part].T / math.sqrt(width)).softmax(dim=-1)
            if mask is not None:
                weights = weights * mask[h, mine, : weights.shape[1]]
            out = out.index_put(
                (torch.arange(mine.start, mine.stop)[:, None], torch.arange(part.start, part.stop)), weights @ v[keys, part]
            )
    return out


@pytest.mark.parametrize(
    ("lengths", "heads", "dim"), [([5, 5], 2, 8), ([1, 7, 33, 16, 50, 2], 4, 64), ([70, 3, 130], 2, 24), ([40], 3, 60)]
)
def test_all_queries_with_gradients(lengths, heads, dim):
    layout, generator = layout_of(lengths), torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 3 * dim, generator=generator, requires_grad=True)
    gradient = torch.randn(sum(lengths), dim, generator=generator)
    out = attend(qkv, heads, layout, 0.0, None)
    out.backward(gradient)
    exact = qkv.detach().double().requires_grad_()
    expected = formula(*exact.chunk(3, dim=1), heads, layout.offsets, layout.offsets)
    expected.backward(gradient.double())
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(qkv.grad.double(), exact.grad, atol=5e-6, rtol=0)


def test_one_query_a_sequence_with_gradients():
    layout, generator = layout_of([4, 1, 19]), torch.Generator().manual_seed(1)
    q = torch.randn(3, 32, generator=generator, requires_grad=True)
    kv = torch.randn(24, 64, generator=generator, requires_grad=True)
    gradient = torch.randn(3, 32, generator=generator)
    out = attend_last(q, kv, 2, layout, 0.0, None)
    out.backward(gradient)
    exact_q, exact_kv = (x.detach().double().requires_grad_() for x in (q, kv))
    expected = formula(exact_q, *exact_kv.chunk(2, dim=1), 2, layout.rows, layout.offsets)
    expected.backward(gradient.double())
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(q.grad.double(), exact_q.grad, atol=5e-6, rtol=0)
    torch.testing.assert_close(kv.grad.double(), exact_kv.grad, atol=5e-6, rtol=0)


def weights(lengths: list[int], heads: int, p: float, seed: int) -> Tensor:
    """The mask on equal attention weights, [heads, N, longest]: queries of zero, and values that are the positions' unit vectors."""
    longest, total = max(lengths), sum(lengths)
    width = -(-longest // 4) * 4
    layout = layout_of(lengths)
    places = torch.cat([torch.arange(length) for length in lengths])
    units = torch.nn.functional.one_hot(places, width).float().repeat(1, heads)
    qkv = torch.cat([torch.zeros(total, 2 * heads * width), units], dim=1)
    out = attend(qkv, heads, layout, p, torch.Generator().manual_seed(seed)).view(total, heads, width)[:, :, :longest]
    counts = torch.cat([torch.full((length,), float(length)) for length in lengths])
    return (out * counts[:, None, None]).transpose(0, 1)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_falls_on_the_weights_at_its_rate_and_keeps_the_mean(p):
    mask = weights([40] * 30, 4, p, 0)
    n = mask.numel()
    assert mask.unique().numel() <= 4  # 0 and the scale, but for rounding
    assert abs(float((mask < 1e-3).double().mean()) - p) < BOUND * math.sqrt(p * (1 - p) / n)
    assert float(mask.max()) == pytest.approx(1 / (1 - p), rel=1e-3)


def test_masks_of_heads_queries_places_and_seeds_are_independent():
    mask = (weights([64] * 24, 4, 0.5, 0) > 0).double() - 0.5
    other = (weights([64] * 24, 4, 0.5, 1) > 0).double() - 0.5
    pairs = [
        (mask[0], mask[1]),
        (mask[:, 1:], mask[:, :-1]),
        (mask[:, :, 1:], mask[:, :, :-1]),
        (mask[:, 64:], mask[:, :-64]),
        (mask, other),
    ]
    for one, two in pairs:
        assert abs(float((one * two).mean()) * 4) < BOUND / math.sqrt(one.numel())
    assert torch.equal(weights([64] * 24, 4, 0.5, 0), weights([64] * 24, 4, 0.5, 0))


@pytest.mark.parametrize("last", [False, True])
def test_dropout_gradients_are_those_of_its_mask(last):
    lengths, heads, dim = [9, 16, 3], 2, 32
    layout, generator = layout_of(lengths), torch.Generator().manual_seed(2)
    total = sum(lengths)
    qkv = torch.randn(total, 3 * dim, generator=generator)
    q, kv = (qkv[:3, :dim].clone() if last else qkv[:, :dim].clone()).requires_grad_(), qkv[:, dim:].clone().requires_grad_()
    rows = layout.rows if last else layout.offsets

    def run(q: Tensor, kv: Tensor) -> Tensor:
        seeded = torch.Generator().manual_seed(5)
        if last:
            return attend_last(q, kv, heads, layout, 0.4, seeded)
        return attend(torch.cat([q, kv], dim=1), heads, layout, 0.4, seeded)

    # The mask depends on shape and seed alone: read it off with queries of zero and unit values, then use it in the formula.
    mask = torch.zeros(heads, len(q), max(lengths))
    for place in range(max(lengths)):
        here = torch.cat([(torch.arange(length) == place).float() for length in lengths])
        out = run(torch.zeros_like(q), torch.cat([torch.zeros(total, dim), here[:, None].expand(-1, dim)], dim=1)).detach()
        counts = torch.tensor([float(lengths[b]) for b in range(3) for _ in range(int(rows[b]), int(rows[b + 1]))])
        mask[:, :, place] = (out.view(len(q), heads, -1)[:, :, 0] * counts[:, None]).T
    gradient = torch.randn(q.shape, generator=generator)
    out = run(q, kv)
    out.backward(gradient)
    exact_q, exact_kv = (x.detach().double().requires_grad_() for x in (q, kv))
    expected = formula(exact_q, *exact_kv.chunk(2, dim=1), heads, rows, layout.offsets, mask.double())
    expected.backward(gradient.double())
    assert 0.2 < float((mask[:, :, :3] == 0).double().mean()) < 0.6
    torch.testing.assert_close(out.double(), expected, atol=5e-6, rtol=0)
    torch.testing.assert_close(q.grad.double(), exact_q.grad, atol=1e-5, rtol=0)
    torch.testing.assert_close(kv.grad.double(), exact_kv.grad, atol=1e-5, rtol=0)


def test_scores_far_apart_neither_overflow_nor_vanish():
    layout = layout_of([4])
    qkv = torch.zeros(4, 24)
    qkv[:, 0], qkv[0, 8], qkv[1, 8] = 1e3, 1e3, -1e3
    qkv[:, 16:] = torch.arange(4.0)[:, None]
    out = attend(qkv, 1, layout, 0.0, None)
    torch.testing.assert_close(out, torch.zeros(4, 8), atol=1e-6, rtol=0)
