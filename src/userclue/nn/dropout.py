"""Dropout with its own generator: the mask depends on the generator's state alone, never on the global one."""

import torch
from torch import Tensor

_LEVELS = 1 << 16


def dropout(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Zero each element of `x` with probability `p` and scale the rest to keep the mean; without a generator, `x` itself.

    Four masks are cut from each 64-bit draw, which on a CPU costs a fraction of one Bernoulli draw an element.
    The probability is rounded to a multiple of 2⁻¹⁶, and the scale is of the rounded one, so the mean stays exact.
    """
    if generator is None or p == 0.0:
        return x
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
    # Without bounds random_ leaves the sign bit zero and a quarter of all masks would never drop.
    words.random_(-(2**63), None, generator=generator)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    mask = (bits >= dropped - _LEVELS // 2).to(x.dtype)
    return x * mask.mul_(_LEVELS / (_LEVELS - dropped))
