"""Losses of next-item and masked-item prediction: pure functions. Shapes: N predictions, D width, V items, K items drawn.

Each returns the mean loss over the predictions and, without gradient, their accuracy: how often the target scores above all it was
compared with. Where nothing is to be predicted the loss is 0, and so are its gradients.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

# A chunk of logits is written, normalised and multiplied twice: it should stay in the cache of a core (2 MB, the best of 0.2 to 14 MB
# by a little), have rows enough for the products to be fast, and never be large in memory (64 MB).
_CACHED, _FEWEST_ROWS, _LARGEST = 1 << 19, 64, 1 << 24


def softmax_cross_entropy(
    states: Tensor, table: Tensor, targets: Tensor, bias: Tensor | None = None, ignored: int = -100
) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy over all rows of `table`, without ever holding the logits [N, V]: (loss, accuracy).

    states [N, D], table [V, D], targets int64 [N], bias [V] → −log softmax(states · tableᵀ + bias)[target], averaged over the targets
    that are not `ignored`. Gradients are formed in the forward pass, a chunk of rows at a time: one product for the logits, two for
    the gradients. Computed in the type of `table`.
    """
    counted = targets != ignored
    if not bool(counted.all()):
        states, targets = states[counted], targets[counted]
    if not len(targets):
        return states.sum() * 0.0, states.new_zeros(())
    loss, accuracy = _ChunkedCrossEntropy.apply(states.to(table.dtype), table, bias, targets, chunk_rows(len(table)))  # type: ignore[no-untyped-call]
    return loss, accuracy


def chunk_rows(items: int) -> int:
    """Rows of logits formed at a time."""
    return max(_CACHED // items, min(_FEWEST_ROWS, _LARGEST // items), 1)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, bias: Tensor | None, targets: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        n = len(states)
        d_states, d_table, d_bias = (
            torch.zeros_like(x) if x is not None and needed else None
            for x, needed in zip((states, table, bias), ctx.needs_input_grad[:3], strict=True)
        )
        buffer = states.new_empty(min(rows, n), len(table))
        total, right = states.new_zeros(()), states.new_zeros(())
        for begin in range(0, n, rows):
            x, target = states[begin : begin + rows], targets[begin : begin + rows, None]
            logits = buffer[: len(x)]
            torch.mm(x, table.T, out=logits)
            if bias is not None:
                logits += bias
            score, top = logits.gather(1, target), logits.amax(1, keepdim=True)
            mass = logits.sub_(top).exp_().sum(1, keepdim=True)
            total += (mass.log() + top - score).sum()
            right += (score == top).sum()
            # softmax − one-hot, times the mass: dividing D columns by it later is cheaper than dividing V here.
            logits.scatter_add_(1, target, -mass)
            scale = 1 / (mass * n)
            if d_states is not None:
                torch.mm(logits, table, out=d_states[begin : begin + rows]).mul_(scale)
            if d_table is not None:
                torch.addmm(d_table, logits.T, x * scale, out=d_table)
            if d_bias is not None:
                d_bias.addmv_(logits.T, scale[:, 0])
        ctx.save_for_backward(d_states, d_table, d_bias)
        accuracy = right / n
        ctx.mark_non_differentiable(accuracy)
        return total / n, accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (*(None if d is None else d * gradients[0] for d in ctx.saved_tensors), None, None)


def sampled_cross_entropy(
    states: Tensor, targets: Tensor, target_rows: Tensor, sampled: Tensor, sampled_rows: Tensor, log_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy against a sample of the items, corrected for how it was drawn ("logQ"): (loss, accuracy among the sample).

    states [N, D]; targets int64 [N] and their rows of the item table [N, D]; sampled int64 [K], distinct and rising, and their rows
    [K, D]; log_weights [K]: a sampled item counts exp(log_weight) times, which for an item drawn c times in S draws with probability q
    is c / (S q). The sum over the items other than the target is then unbiased (Bengio and Senécal 2008). A sampled item that is the
    target itself is passed over. The target's own score is not corrected: it is no sample.
    """
    if not len(targets):
        return states.sum() * 0.0, states.new_zeros(())
    positive = (states * target_rows).sum(1)
    logits = torch.addmm(log_weights.to(states.dtype), states, sampled_rows.T)
    place = torch.searchsorted(sampled, targets).clamp_(max=len(sampled) - 1)
    hit = torch.nonzero(sampled[place] == targets)[:, 0]
    # Not −inf: where nothing else was sampled, its gradient would be no number.
    logits = logits.index_put((hit, place[hit]), logits.new_full((), torch.finfo(logits.dtype).min / 2))
    rest = logits.logsumexp(1)
    with torch.no_grad():
        accuracy = ((logits - log_weights).amax(1) < positive).to(states.dtype).mean()
    return (torch.logaddexp(positive, rest) - positive).mean(), accuracy


def binary_cross_entropy(states: Tensor, target_rows: Tensor, negative_rows: Tensor) -> tuple[Tensor, Tensor]:
    """SASRec's original loss, −log σ(s·e) − log(1 − σ(s·e')), with one item e' that is not the target: (loss, accuracy). All [N, D]."""
    if not len(states):
        return states.sum() * 0.0, states.new_zeros(())
    positive, negative = (states * target_rows).sum(1), (states * negative_rows).sum(1)
    accuracy = (positive > negative).detach().to(states.dtype).mean()
    return (softplus(-positive) + softplus(negative)).mean(), accuracy


def other_rows(targets: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """For each target in 0…n-1 another row, drawn uniformly; the target itself where n is 1. int64, as `targets`."""
    shift = torch.randint(1, max(n - 1, 1) + 1, targets.shape, generator=generator, device=targets.device)
    return (targets + shift) % n
