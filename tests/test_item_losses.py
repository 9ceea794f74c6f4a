"""Losses over items against PyTorch's own in float64, the formula, and Monte Carlo."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from userclue import item_losses
from userclue.item_losses import binary_cross_entropy, chunk_rows, sampled_cross_entropy, softmax_cross_entropy


def drawn(seed=0, n=37, d=5, v=23, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    states, table = (torch.randn(rows, d, generator=generator, dtype=dtype).requires_grad_() for rows in (n, v))
    bias = torch.randn(v, generator=generator, dtype=dtype).requires_grad_()
    return states, table, bias, torch.randint(0, v, (n,), generator=generator)


def gradients(loss, *of):
    return torch.autograd.grad(loss, of, allow_unused=True)


@pytest.mark.parametrize("cached", [1, 23 * 5, 23 * 12, 1 << 19])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("ignored", [None, 3, "all but one"])
def test_chunked_is_torchs_cross_entropy_in_value_and_gradients(monkeypatch, cached, with_bias, ignored):
    monkeypatch.setattr(item_losses, "_CACHED", cached)
    monkeypatch.setattr(item_losses, "_FEWEST_ROWS", 1)
    states, table, bias, targets = drawn()
    if ignored == "all but one":
        ignored = -100
        targets[torch.arange(len(targets)) != 7] = ignored
    of = (states, table, bias) if with_bias else (states, table)
    logits = states @ table.T + (bias if with_bias else 0)
    theirs = cross_entropy(logits, targets, ignore_index=-100 if ignored is None else ignored)
    ours, accuracy = softmax_cross_entropy(states, table, targets, bias if with_bias else None, -100 if ignored is None else ignored)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for mine, their in zip(gradients(3 * ours, *of), gradients(3 * theirs, *of), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-10, atol=1e-12)
    counted = targets != ignored
    assert float(accuracy) == pytest.approx(float((logits.argmax(1) == targets)[counted].double().mean()))
    assert not accuracy.requires_grad


def test_gradcheck():
    states, table, bias, targets = drawn(n=6, d=3, v=7)
    assert torch.autograd.gradcheck(lambda *x: softmax_cross_entropy(*x[:2], targets, x[2])[0], (states, table, bias))


def test_only_the_gradients_that_are_needed_are_formed():
    states, table, bias, targets = drawn()
    whole = gradients(softmax_cross_entropy(states, table, targets, bias)[0], states, bias)
    some = gradients(softmax_cross_entropy(states, table.detach(), targets, bias)[0], states, bias)
    for one, other in zip(whole, some, strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        assert not softmax_cross_entropy(states, table, targets, bias)[0].requires_grad


def test_large_logits_overflow_nothing():
    states, table, _, targets = drawn(dtype=torch.float32)
    loss, _ = softmax_cross_entropy(states * 1e4, table * 1e4, targets)
    torch.testing.assert_close(loss, cross_entropy((states * 1e4) @ (table * 1e4).T, targets), rtol=1e-5, atol=0)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(loss, states, table))


def test_float32_is_as_close_to_float64_as_torchs():
    states, table, _, targets = drawn(n=600, d=64, v=3000, dtype=torch.float32)
    exact = cross_entropy(states.double() @ table.double().T, targets)
    ours, theirs = softmax_cross_entropy(states, table, targets)[0], cross_entropy(states @ table.T, targets)
    assert float(ours.detach()) == pytest.approx(float(exact.detach()), rel=1e-5)
    for mine, their, true in zip(*(gradients(loss, states, table) for loss in (ours, theirs, exact)), strict=True):
        assert float((mine - true).norm()) < 3 * float((their - true).norm()) + 1e-6


def test_states_of_bfloat16_are_scored_in_the_type_of_the_table():
    states, table, _, targets = drawn(dtype=torch.float32)
    rough = states.detach().bfloat16().requires_grad_()
    loss, _ = softmax_cross_entropy(rough, table, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(rough.float() @ table.T, targets))
    assert gradients(loss, rough)[0].dtype == torch.bfloat16


def test_no_targets_give_zero_and_zero_gradients():
    states, table, _, targets = drawn()
    for loss, accuracy in (
        softmax_cross_entropy(states, table, torch.full_like(targets, 9), ignored=9),
        softmax_cross_entropy(states[:0], table, targets[:0]),
        sampled_cross_entropy(states[:0], targets[:0], states[:0], torch.arange(3), table[:3], torch.zeros(3)),
        binary_cross_entropy(states[:0], states[:0], states[:0]),
    ):
        assert float(loss.detach()) == float(accuracy) == 0
        assert not gradients(loss, states)[0].any()


@pytest.mark.parametrize("items", [1, 100, 3_416, 50_000, 1_000_000, 100_000_000])
def test_a_chunk_is_neither_empty_nor_larger_than_promised(items):
    assert chunk_rows(items) >= 1
    assert chunk_rows(items) * items <= max(1 << 24, items)
    assert items > 3_416 or chunk_rows(items) >= 64


def test_a_sample_of_all_items_is_the_full_softmax():
    states, table, _, targets = drawn()
    everything = torch.arange(len(table))
    ours, accuracy = sampled_cross_entropy(states, targets, table[targets], everything, table, torch.zeros(len(table)))
    theirs = cross_entropy(states @ table.T, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for mine, their in zip(gradients(ours, states, table), gradients(theirs, states, table), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-10, atol=1e-12)
    assert float(accuracy) == pytest.approx(float(((states @ table.T).argmax(1) == targets).double().mean()))


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_the_corrected_sum_is_unbiased(power):
    """exp(loss) · exp(score of the target) is the estimate of the softmax's denominator: its mean must be the denominator itself."""
    states, table, _, targets = drawn(n=3, v=40)
    states, table = states.detach() / 2, table.detach() / 2
    share = (torch.arange(1.0, 41.0, dtype=torch.float64)) ** power
    share /= share.sum()
    scores = states @ table.T
    generator, total, square, rounds, draws = torch.Generator().manual_seed(0), 0.0, 0.0, 2000, 8
    own = scores.gather(1, targets[:, None])[:, 0]
    for _ in range(rounds):
        drawn_items, times = torch.multinomial(share, draws, True, generator=generator).unique(return_counts=True)
        weights = (times / (draws * share[drawn_items])).log()
        losses = torch.stack(
            [
                sampled_cross_entropy(
                    states[i : i + 1], targets[i : i + 1], table[targets[i : i + 1]], drawn_items, table[drawn_items], weights
                )[0]
                for i in range(len(states))
            ]
        )
        estimate = (losses + own).exp()
        total, square = total + estimate, square + estimate**2
    mean, exact = total / rounds, scores.exp().sum(1)
    error = ((square / rounds - mean**2) / rounds).sqrt()
    assert float(error.max() / exact.max()) < 0.03
    assert bool(((mean - exact).abs() < 4 * error).all())


def test_a_target_among_the_sample_is_passed_over():
    states, table, _, targets = drawn(n=1, v=6)
    sampled = targets.clone()
    loss, accuracy = sampled_cross_entropy(states, targets, table[targets], sampled, table[sampled], torch.zeros(1, dtype=torch.float64))
    assert float(loss.detach()) == 0
    assert float(accuracy) == 1
    assert all(torch.isfinite(gradient).all() and not gradient.any() for gradient in gradients(loss, states, table))


def test_binary_is_torchs_with_one_positive_and_one_negative():
    states, table, _, targets = drawn()
    negatives = (targets + 1) % len(table)
    ours, accuracy = binary_cross_entropy(states, table[targets], table[negatives])
    scores = torch.stack([(states * table[targets]).sum(1), (states * table[negatives]).sum(1)])
    labels = torch.tensor([[1.0], [0.0]], dtype=torch.float64).expand_as(scores)
    torch.testing.assert_close(ours, 2 * binary_cross_entropy_with_logits(scores, labels))
    assert float(accuracy) == pytest.approx(float((scores[0] > scores[1]).double().mean()))
