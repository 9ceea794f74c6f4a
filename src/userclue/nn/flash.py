"""Attention by PyTorch's own fused kernels, for a GPU: nothing of size L² is kept, and dropout acts inside the kernel.

Sequences are padded to the longest of their batch, which buckets by length keep near. `torch.nn.attention.varlen` would need no
padding, but as of torch 2.13 it has no dropout and takes half precision only.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from userclue.nn.layout import Layout


def attend_fused(qkv: Tensor, heads: int, layout: Layout, p: float, generator: torch.Generator | None, causal: bool = False) -> Tensor:
    """As `attention.attend`: queries, keys and values of all tokens, [N, 3D] → [N, D]; dropout with `p` on the attention weights.

    causal: a token mixes only its own value and those before it. The masks are PyTorch's: others than those of `attend`.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in layout.pad(qkv).chunk(3, dim=-1))
    full = layout.cells is None  # without padding no bias is needed, and the fastest kernel takes none
    bias = None if full else layout.causal_bias if causal else layout.bias
    with borrowed(generator):
        mixed = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if bias is None else bias.to(q.dtype),
            dropout_p=0.0 if generator is None else p,
            is_causal=causal and full,
        )
    return layout.unpad(mixed.transpose(1, 2).flatten(2))


@contextmanager
def borrowed(generator: torch.Generator | None) -> Iterator[None]:
    """Let kernels that know the device's global generator alone draw from `generator`, which moves on; the global one stays as it was.

    A generator's state lies in the host's memory, so that nothing waits for the device. Not for two threads at once.
    """
    if generator is None:
        yield
        return
    shared = _global_generator(generator.device)
    before = shared.get_state()
    shared.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(shared.get_state())
        shared.set_state(before)


def _global_generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    found: torch.Generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return found
