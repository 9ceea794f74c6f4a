"""Loss functions: pure, on tensors, each testable alone. Shapes: B users, D width, K classes or values."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softplus


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean negative cosine similarity of rows, [B, D] × [B, D] → scalar in [−1, 1] (CLUE eq. 4).

    The stop-gradient of eq. 6 is the caller's: pass `target.detach()`.
    """
    if prediction.dtype == torch.bfloat16:  # whose 8 bits cannot tell a loss of −0.998 from one of −1
        prediction, target = prediction.float(), target.float()
    return -(normalize(prediction, dim=-1) * normalize(target, dim=-1)).sum(dim=-1).mean()


def pair_cross_entropy(x: Tensor, y: Tensor, alike: Tensor | None = None) -> Tensor:
    """Mean −log e^⟨x_b, y_b⟩ / Σ_c e^⟨x_b, y_c⟩ of rows [B, D] × [B, D]: InfoNCE with the other rows of the batch (S3-Rec's SP).

    alike: bool [B, B], pairs (b, c) that are no negatives. Without a row the loss is 0.
    """
    if not len(x):
        return (x.sum() + y.sum()) * 0.0
    logits = x @ y.T
    here = torch.arange(len(x), device=x.device)
    if alike is not None:
        logits = logits.masked_fill(alike & (here[:, None] != here), float("-inf"))
    return cross_entropy(logits, here)


def attribute_cross_entropy(
    states: Tensor,
    table: Tensor,
    owners: Tensor,
    values: Tensor,
    times: Tensor | None = None,
    sampled: Tensor | None = None,
) -> Tensor:
    """InfoNCE of rows that have several values each against the values that they have not (S3-Rec's AAP and MAP).

    states [M, D], table [K, D] of all values; row owners[p] has value values[p], int64 [P]. For row m with values A the mean over a
    in A of −log e^⟨s, e_a⟩ / (e^⟨s, e_a⟩ + Σ_{ã ∉ A} e^⟨s, e_ã⟩); then the mean over the rows that have a value, row m counted
    times[m] times. sampled: int64 [S], rising, the values that the sum runs over, scaled by K / S; all if not given. Without a value
    the loss is 0.
    """
    if not len(owners):
        return (states.sum() + table.sum()) * 0.0
    place, hit = values, torch.arange(len(values), device=values.device)
    logits = states @ (table if sampled is None else table[sampled]).T
    if sampled is not None:
        place = torch.searchsorted(sampled, values).clamp_(max=len(sampled) - 1)
        hit = torch.nonzero(sampled[place] == values)[:, 0]
        logits = logits + math.log(len(table) / len(sampled))
    # Not −inf: where a row has every value, the gradient of its sum would be no number.
    logits = logits.index_put((owners[hit], place[hit]), logits.new_full((), torch.finfo(logits.dtype).min / 2))
    each = softplus(logits.logsumexp(1)[owners] - (states[owners] * table[values]).sum(1))
    number = torch.bincount(owners, minlength=len(states))
    weights = (number > 0).to(states.dtype)
    if times is not None:
        weights = weights * times
    return (each * (weights / number.clamp(min=1))[owners]).sum() / weights.sum()
