"""The compiled block against the PyTorch form in float64, with gradients; and the masks of its four dropouts, read off its results."""

import copy
import math
import platform

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import layer_norm

from userclue import native
from userclue.config import EncoderConfig
from userclue.native import describe, kernels
from userclue.nn import fused
from userclue.nn.dropout import dropout
from userclue.nn.fused import ORDER, first_products, fused_blocks, fused_embedding
from userclue.nn.layout import Layout
from userclue.nn.transformer import Block

pytestmark = pytest.mark.skipif(kernels() is None, reason=describe())

BOUND = 5  # standard deviations
# Widths of one vector and of several, heads narrower than a vector, of its width, wider and of none of these.
WIDTHS = [(16, 4), (64, 4), (64, 2), (32, 1), (96, 2), (80, 5), (128, 16)]
# In one chunk, over several, longer than the queries formed together, and a UR token alone.
LENGTHS = [(4, 10, 1, 15, 6), (101, 71, 131), (20,) * 30]


def layout_of(lengths: tuple[int, ...]) -> Layout:
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    return Layout(offsets, max(lengths), sum(lengths))


def made(dim: int, heads: int, seed: int = 0, **shape: object) -> Block:
    block = Block(EncoderConfig.of({"dim": dim, "heads": heads, **shape}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return block


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(
    block: Block, x: Tensor, layout: Layout, last: bool, weight: Tensor, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    block.zero_grad()
    out = block(x, layout, generator, last)
    (out * weight).sum().backward()
    return {"out": out.detach(), "x": x.grad, **{name: parameter.grad for name, parameter in block.named_parameters()}}


@pytest.fixture
def another_build(tmp_path, monkeypatch):
    """Kernels of other compiler flags, as long as the test runs."""

    def build(*flags: str) -> None:
        monkeypatch.setattr(native, "FLAGS", flags)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        native._load.cache_clear()

    yield build
    native._load.cache_clear()


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize(("causal", "last"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize(("dim", "heads"), WIDTHS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_values_and_gradients_are_those_of_the_float64_form(norm, causal, last, dim, heads, lengths):
    block, layout = made(dim, heads, norm=norm, causal=causal, dropout=0.0), layout_of(lengths)
    x = torch.randn(layout.tokens, dim, generator=seeded(1))
    weight = torch.randn(layout.size if last else layout.tokens, dim, generator=seeded(2))
    ours = gradients(block, x, layout, last, weight)
    exact = gradients(copy.deepcopy(block).double(), x.double(), layout, last, weight.double())
    for name, value in exact.items():
        scale = float(value.abs().max()) + 1e-3
        assert float((ours[name] - value).abs().max()) / scale < 3e-5, name


def test_the_last_token_alone_is_that_of_all_tokens():
    block, layout = made(64, 4, dropout=0.0), layout_of((3, 50, 1, 70))
    x = torch.randn(layout.tokens, 64, generator=seeded(1))
    torch.testing.assert_close(block(x, layout, None, True), block(x, layout, None, False)[layout.last], atol=1e-5, rtol=1e-5)


def test_without_gradients_the_same_bits():
    block, layout = made(64, 4), layout_of((3, 50, 1, 70))
    x = torch.randn(layout.tokens, 64, generator=seeded(1))
    for last in (False, True):
        with torch.no_grad():
            without = block(x, layout, seeded(), last)
        assert torch.equal(without, block(x, layout, seeded(), last))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_a_stack_is_its_blocks_one_after_another(norm, last, count):
    blocks, layout = [made(64, 4, seed, norm=norm) for seed in range(count)], layout_of((51, 9, 1, 99) * 8)
    weights = [weight for block in blocks for weight in block.weights()]

    def one_by_one(x: Tensor, generator: torch.Generator) -> Tensor:
        for block in blocks:
            x = block(x, layout, generator, last and block is blocks[-1])
        return x

    def at_once(x: Tensor, generator: torch.Generator) -> Tensor:
        return fused_blocks(x, layout, weights, blocks[0].shape, generator, last)

    x = torch.randn(layout.tokens, 64, generator=seeded(1), requires_grad=True)
    weight = torch.randn(layout.size if last else layout.tokens, 64, generator=seeded(2))
    expected, found = (form(x, seeded(3)) for form in (one_by_one, at_once))
    assert torch.equal(found, expected)
    assert torch.equal(at_once(x.detach(), seeded(3)), expected)
    with torch.no_grad():
        assert torch.equal(at_once(x, seeded(3)), expected)
    theirs, ours = (torch.autograd.grad(out, (x, *weights), weight) for out in (expected, found))
    assert all(torch.equal(one, other) for one, other in zip(theirs, ours, strict=True))


@pytest.mark.parametrize("last", [False, True])
def test_a_norm_behind_the_stack_is_that_of_the_float64_form(last):
    blocks, layout = [made(64, 4, seed, dropout=0.0) for seed in range(2)], layout_of((51, 9, 1, 99) * 8)
    norm = torch.randn(2, 64, generator=seeded(4))
    weights = [*(weight.detach() for block in blocks for weight in block.weights()), *norm]
    given = [tensor.requires_grad_() for tensor in (torch.randn(layout.tokens, 64, generator=seeded(1)), *weights)]
    weight = torch.randn(layout.size if last else layout.tokens, 64, generator=seeded(2))

    def exact(x: Tensor, *weights: Tensor) -> Tensor:
        for block, own in zip(blocks, (weights[:12], weights[12:24]), strict=True):
            names = [name for layer in ORDER for name in (f"{layer}.weight", f"{layer}.bias")]
            x = functional_call(block, dict(zip(names, own, strict=True)), (x, layout, None, last and block is blocks[-1]))
        return layer_norm(x, (64,), *weights[24:])

    ours = fused_blocks(given[0], layout, given[1:], blocks[0].shape, None, last)
    theirs = exact(*(tensor.double() for tensor in given))
    with torch.no_grad():
        assert torch.equal(fused_blocks(given[0], layout, given[1:], blocks[0].shape, None, last), ours)
    found, expected = torch.autograd.grad(ours, given, weight), torch.autograd.grad(theirs, given, weight.double())
    for one, other in zip((ours, *found), (theirs, *expected), strict=True):
        assert float((one - other).detach().abs().max() / (other.detach().abs().max() + 1e-3)) < 3e-5


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("dim", "heads"), [(16, 4), (64, 2), (80, 5)])
def test_first_products_of_items_and_positions_are_those_of_tokens(norm, last, dim, heads):
    blocks, layout = [made(dim, heads, seed, norm=norm, dropout=0.0) for seed in range(2)], layout_of((51, 9, 1, 99) * 8)
    # Means far from zero: a norm that subtracted them after the product would lose its digits.
    items, places = (torch.randn(n, dim, generator=seeded(n)) + 30 for n in (500, 99))
    rows = torch.randint(500, (layout.tokens,), generator=seeded(3))
    weights, shape = [weight.detach() for block in blocks for weight in block.weights()], blocks[0].shape

    def run(items: Tensor, rows: Tensor) -> Tensor:
        first = first_products(items, places, weights, shape), rows
        return fused_blocks(items[rows] + places[layout.from_end], layout, weights, shape, None, last, first)

    with torch.no_grad():
        found, exact = run(items, rows), items[rows].double() + places[layout.from_end].double()
        for block in blocks:
            exact = copy.deepcopy(block).double()(exact, layout, None, last and block is blocks[-1])
        assert float((found - exact).abs().max() / exact.abs().max()) < 3e-5
        met, among = rows.unique(return_inverse=True)
        assert torch.equal(run(items[met], among), found)
        assert torch.equal(run(items[rows], torch.arange(len(rows))), found)


@pytest.mark.parametrize("last", [False, True])
def test_threads_change_no_bit(last):
    block, layout = made(64, 4), layout_of(tuple(np.random.default_rng(0).integers(1, 60, 90).tolist()))
    x = torch.randn(layout.tokens, 64, generator=seeded(1))
    weight = torch.randn(layout.size if last else layout.tokens, 64, generator=seeded(2))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(block, x, layout, last, weight, seeded(5)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[name], value) for name, value in found[0].items())


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize(("causal", "last"), [(False, False), (True, False), (False, True)])
def test_gradients_under_dropout_are_those_of_the_masks_of_the_forward_pass(norm, causal, last):
    """Finite differences of the function that one seed fixes; a backward pass with other masks would be off by its own size."""
    block, layout = made(64, 4, norm=norm, causal=causal, dropout=0.4), layout_of((9, 70, 17, 1))
    x = torch.randn(layout.tokens, 64, generator=seeded(1))
    weight = torch.randn(layout.size if last else layout.tokens, 64, generator=seeded(2))
    slopes = gradients(block, x, layout, last, weight, seeded(7))
    step = 2e-3

    def value(x: Tensor) -> float:
        with torch.no_grad():
            return float((block(x, layout, seeded(7), last).double() * weight).sum())

    for name, parameter in [("x", x), *block.named_parameters()]:
        direction = slopes[name] / (slopes[name].norm() + 1e-12)
        if float(slopes[name].norm()) < 1e-2:
            continue
        with torch.no_grad():
            here = parameter.clone()
            parameter.copy_(here + step * direction)
            up = value(x)
            parameter.copy_(here - step * direction)
            down = value(x)
            parameter.copy_(here)
        assert (up - down) / (2 * step) == pytest.approx(float(slopes[name].norm()), rel=0.03), name


def silent(dim: int, heads: int, p: float) -> Block:
    """A block that adds nothing to its input: the tests below let one part of it speak."""
    block = Block(EncoderConfig.of({"dim": dim, "heads": heads, "dropout": p}))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    return block


def masks(place: str, p: float, seed: int, lengths: tuple[int, ...] = (16,) * 120) -> Tensor:
    """The mask of one place, scaled; ones at the kept elements make it visible. [N, D], or of the weights [N, H, 16]."""
    block, layout, dim = silent(64, 4, p), layout_of(lengths), 64
    x = torch.zeros(layout.tokens, dim)
    with torch.no_grad():
        if place == "attention output":
            block.out.bias.fill_(1)
        elif place == "output":
            block.ff2.bias.fill_(1)
        elif place == "hidden":
            block.ff1.bias.fill_(1)
            block.ff2.weight.copy_(torch.eye(dim))
        else:  # values that are unit vectors of the positions, in every head; scores all equal
            positions = torch.cat([torch.arange(length) for length in lengths])
            x = torch.nn.functional.one_hot(positions, dim).float() * 8
            low, high = x[0, 1], x[0, 0]
            mean, deviation = x[0].mean(), x[0].std(correction=0)
            low, high = (low - mean) / deviation, (high - mean) / deviation
            block.norm1.weight.fill_(1 / (high - low))
            block.norm1.bias.fill_(-low / (high - low))
            for head in range(4):
                block.qkv.weight[2 * dim + 16 * head : 2 * dim + 16 * (head + 1), :16] = torch.eye(16)
            block.out.weight.copy_(torch.eye(dim))
        out = block(x, layout, seeded(seed), False) - x
    return (out * 16).view(-1, 4, 16) if place == "weights" else out


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("place", ["attention output", "output"])
def test_rate_and_scale_of_the_two_outer_masks(place, p):
    mask = masks(place, p, 0)
    assert abs(float((mask == 0).double().mean()) - p) < BOUND * math.sqrt(p * (1 - p) / mask.numel())
    torch.testing.assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], 1 / (1 - p)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize(("place", "outer"), [("hidden", "output"), ("weights", "attention output")])
def test_rate_of_the_two_inner_masks_where_the_outer_ones_keep(place, outer, p):
    kept = masks(outer, p, 0) != 0
    inner = masks(place, p, 0).reshape(kept.shape)[kept]
    assert abs(float((inner.abs() < 1e-3).double().mean()) - p) < BOUND * math.sqrt(p * (1 - p) / inner.numel())


def test_masks_of_rows_columns_places_heads_and_seeds_are_independent():
    first, second, other = (
        masks(*which).sign().double() - 0.5 for which in (("output", 0.5, 0), ("attention output", 0.5, 0), ("output", 0.5, 1))
    )
    weights = masks("weights", 0.5, 0)
    spread = (weights[:, :, :].abs() > 1e-3).double() - float((weights.abs() > 1e-3).double().mean())
    spread = spread / spread.std()
    pairs = [
        *((first[:, lag:] * 2, first[:, :-lag] * 2) for lag in (1, 2, 15, 16, 17, 32)),
        *((first[lag:] * 2, first[:-lag] * 2) for lag in (1, 16)),
        (first * 2, second * 2),
        (first * 2, other * 2),
        (spread[:, 1:], spread[:, :-1]),
        (spread[1:], spread[:-1]),
        (spread[16:], spread[:-16]),
        *((spread[:, :, lag:], spread[:, :, :-lag]) for lag in (1, 2, 8)),
    ]
    for one, two in pairs:
        assert abs(float((one * two).mean())) < BOUND / math.sqrt(one.numel())
    assert torch.equal(masks("weights", 0.5, 0), weights)


def test_scores_far_apart_neither_overflow_nor_vanish():
    block, layout = silent(16, 1, 0.0), layout_of((4,))
    with torch.no_grad():
        block.norm1.weight.fill_(1)
        block.qkv.weight[:16] = torch.eye(16) * 300
        block.qkv.weight[16:32] = torch.eye(16) * 300
        block.qkv.weight[32:] = torch.eye(16)
        block.out.weight.copy_(torch.eye(16))
    x = torch.randn(4, 16, generator=seeded())
    out = block(x, layout, None, False) - x
    normal = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(out, normal, atol=1e-3, rtol=0)  # each attends to itself alone


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs a narrower vector that this machine has too")
def test_every_width_of_vectors_draws_the_same_masks(another_build):
    """A curve recorded on one processor is that of another: compiled for the oldest of its kind, the kernels give the same numbers."""
    layout, inputs = layout_of((51, 9, 1, 99)), []
    for dim, heads, causal, last in ((64, 4, False, False), (48, 4, True, False), (80, 5, False, True)):
        x = torch.randn(layout.tokens, dim, generator=seeded(1))
        weight = torch.randn(layout.size if last else layout.tokens, dim, generator=seeded(2))
        inputs.append((made(dim, heads, causal=causal), x, layout, last, weight))
    tables = torch.randn(30, 48, generator=seeded(3)), torch.randn(9, 48, generator=seeded(4))
    tokens, nine = torch.arange(20) % 7, layout_of((9, 9, 2))

    def results() -> list[Tensor]:
        found = [value for given in inputs for value in gradients(*given, seeded(5)).values()]
        found += [dropout(torch.ones(1003), 0.3, seeded(6))]
        return [*found, fused_embedding(*tables, tokens, nine, 0.4, seeded(7), sparse=False)]

    wide = results()
    another_build(*(flag if flag != "-march=native" else "-march=x86-64" for flag in native.FLAGS))
    for one, other in zip(wide, results(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dim", "heads"), [(64, 4), (128, 2)])
@pytest.mark.parametrize("causal", [False, True])
def test_zeros_left_out_and_attention_kept_change_no_bit(dim, heads, causal, another_build, monkeypatch):
    block, layout = made(dim, heads, causal=causal, dropout=0.4), layout_of((51, 9, 1, 30) * 9)
    x = torch.randn(layout.tokens, dim, generator=seeded(1))
    weight = torch.randn(layout.tokens, dim, generator=seeded(2))

    def found() -> list[Tensor]:
        return list(gradients(block, x, layout, False, weight, seeded(3)).values())

    shortest = found()
    assert fused._width(layout, block.shape, dim) > 0
    monkeypatch.setattr(fused, "_width", lambda *_: 0)
    formed_again = found()
    another_build(*native.FLAGS, "-DSKIPS=0")
    for one, other, all_products in zip(shortest, formed_again, found(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, all_products)


@pytest.mark.parametrize("sparse", [False, True])
def test_embedding_is_look_up_and_sum_and_its_mask_is_that_of_its_gradient(sparse):
    items = torch.randn(30, 64, generator=seeded(1), requires_grad=True)
    places = torch.randn(9, 64, generator=seeded(2), requires_grad=True)
    tokens, layout = torch.randint(30, (40,), generator=seeded(3)), layout_of((9, 1, 4, 9, 8, 9))
    total = items[tokens] + places[layout.from_end]
    torch.testing.assert_close(fused_embedding(items, places, tokens, layout, 0.0, None, sparse), total, rtol=0, atol=0)
    ones = fused_embedding(torch.ones(30, 64), torch.zeros(9, 64), tokens, layout, 0.3, seeded(5), sparse)
    out = fused_embedding(items, places, tokens, layout, 0.3, seeded(5), sparse)
    torch.testing.assert_close(out, total * ones, rtol=1e-6, atol=0)
    weight = torch.randn(out.shape, generator=seeded(6))
    expected = torch.autograd.grad((total * ones * weight).sum(), (items, places))
    out.backward(weight)
    assert items.grad.is_sparse == sparse
    torch.testing.assert_close(items.grad.to_dense(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(places.grad, expected[1], rtol=1e-5, atol=1e-5)
    if sparse:
        assert torch.equal(items.grad._indices()[0], tokens.unique())  # each row once, in order


def test_widths_that_fit_no_vector_take_the_other_form(monkeypatch):
    block, layout = made(24, 2, dropout=0.0), layout_of((3, 5))
    x = torch.randn(8, 24, generator=seeded())
    ours = block(x, layout, None, False)
    monkeypatch.setenv("USERCLUE_KERNELS", "off")
    assert torch.equal(ours, block(x, layout, None, False))
