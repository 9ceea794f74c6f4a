"""Dropout with its own generator: the mask depends on the generator's state alone, never on the global one.

On a CPU in float32 the compiled kernels draw and apply the mask in one pass and draw it again in the backward pass; elsewhere four
masks are cut from each 64-bit draw of the generator. The two give different masks of the same distribution.
"""

from typing import Any

import torch
from torch import Tensor

from userclue.native import kernels, library

_LEVELS = 1 << 16


def dropout(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Zero each element of `x` with probability `p` and scale the rest to keep the mean; without a generator, `x` itself."""
    if generator is None or p == 0.0:
        return x
    if fits(x):
        out: Tensor = _Dropout.apply(x.contiguous(), *draw(p, generator))  # type: ignore[no-untyped-call]
        return out
    return x * _mask(x, p, generator)


def fits(x: Tensor) -> bool:
    """Whether the compiled kernels are there and take this tensor."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and kernels() is not None


def draw(p: float, generator: torch.Generator) -> tuple[int, float, int]:
    """(threshold of 16 random bits below which an element is dropped, scale of the kept, seed of the mask)."""
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    # Without bounds random_ leaves the sign bit zero.
    seed = int(torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=generator))
    return dropped, _LEVELS / (_LEVELS - dropped), seed % 2**64


def _mask(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """0 or the scale of the kept; the probability is rounded to a multiple of 2⁻¹⁶ and the scale is of the rounded one."""
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    return (bits >= dropped - _LEVELS // 2).to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))


def _run(x: Tensor, dropped: int, scale: float, seed: int) -> Tensor:
    out = torch.empty_like(x)
    library().userclue_dropout(x.data_ptr(), out.data_ptr(), x.numel(), dropped, scale, seed, torch.get_num_threads())
    return out


class _Dropout(torch.autograd.Function):
    """mask · x; the mask is not kept but drawn again from its seed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int, scale: float, seed: int) -> Tensor:
        ctx.drawn = dropped, scale, seed
        return _run(x, dropped, scale, seed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _run(gradients[0].contiguous(), *ctx.drawn), None, None, None
