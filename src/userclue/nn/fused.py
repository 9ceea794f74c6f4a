"""Embedding and stack of transformer blocks as a compiled kernel each (kernels/embed.c, block.c), forward and backward, CPU, float32."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from userclue.native import library
from userclue.nn.distinct import distinct
from userclue.nn.dropout import draw, fits
from userclue.nn.layout import Layout

WIDEST = 16  # floats in the widest vector the kernels may be compiled for; the width of a block must be a multiple
ORDER = ("qkv", "out", "ff1", "ff2", "norm1", "norm2")  # of the layers, weight then bias, as the kernel takes them

NO_MASK = (0, 1.0, 0)

_POINTER, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_KEPT = ("qkv", "weights", "powers", "values", "mixed", "sum1", "hidden", "sum2", "stats1", "stats2", "result", "final_stats")


class _Job(ctypes.Structure):
    """The C struct Job of kernels/job.h, field by field."""

    _fields_ = (
        *((name, _LONG) for name in ("N", "B", "D", "H", "width")),
        *((name, ctypes.c_int32) for name in ("post", "causal", "last")),
        ("dropped", ctypes.c_uint32),
        ("keep_scale", _FLOAT),
        ("threads", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        ("offsets", _POINTER),
        *((f"{name}_{kind}", _POINTER) for name in (*ORDER, "final") for kind in ("w", "b")),
        *((name, _POINTER) for name in ("x", "items", "places", "bias", "rows", "positions", "out", *_KEPT, "d_out", "d_x", "d_weights")),
    )


class _First(ctypes.Structure):
    """The C struct First of kernels/first.c, field by field."""

    _fields_ = (
        *((name, _LONG) for name in ("D", "n_items", "n_places")),
        ("threads", ctypes.c_int32),
        *((name, _POINTER) for name in ("items", "places", "qkv_w", "qkv_b", "norm_w", "norm_b", "item_out", "place_out", "bias")),
    )


class _Embedding(ctypes.Structure):
    """The C struct Embedding of kernels/embed.c, field by field."""

    _fields_ = (
        *((name, _LONG) for name in ("B", "D")),
        ("dropped", ctypes.c_uint32),
        ("keep_scale", _FLOAT),
        ("threads", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        *((name, _POINTER) for name in ("rows", "offsets", "items", "places", "x")),
    )


class Shape(NamedTuple):
    """What a block is beside its weights: heads, dropout probability, post-norm or pre-norm, causal or bidirectional."""

    heads: int
    p: float
    post: bool
    causal: bool


class FirstProducts(NamedTuple):
    """What a stack's first block makes of each item [V, 3D] and position [P, 3D] before it knows which meet, and of its biases [3D]."""

    items: Tensor
    places: Tensor
    bias: Tensor


def fits_whole(x: Tensor) -> bool:
    """Whether the kernels of this file take rows of this type and width, [.., D]."""
    return fits(x) and x.shape[-1] % WIDEST == 0 and not torch.is_autocast_enabled("cpu")


def fused_embedding(
    items: Tensor, places: Tensor, tokens: Tensor, layout: Layout, p: float, generator: torch.Generator | None, sparse: bool
) -> Tensor:
    """dropout(items[tokens] + places[from_end]), [V, D], [P, D], int64 [N] → [N, D]; `sparse`: see torch.nn.Embedding."""
    drawn = draw(p, generator) if generator is not None and p > 0.0 else NO_MASK
    out: Tensor = _Embed.apply(items, places, tokens.contiguous(), layout.offsets, drawn, sparse)  # type: ignore[no-untyped-call]
    return out


class _Embed(torch.autograd.Function):
    """The mask is drawn again from its seed; a sparse gradient is handed out coalesced."""

    @staticmethod
    def forward(ctx: Any, items: Tensor, places: Tensor, tokens: Tensor, offsets: Tensor, drawn: Any, sparse: bool) -> Tensor:
        ctx.save_for_backward(tokens, offsets)
        ctx.given = items.shape, places.shape, drawn, sparse
        out = items.new_empty(len(tokens), items.shape[1])
        _run_embedding("forward", tokens, offsets, items, places, out, drawn)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (tokens, offsets), (shape, places_shape, drawn, sparse) = ctx.saved_tensors, ctx.given
        gradient, rows, met = gradient.contiguous(), tokens, None
        if sparse:
            met, rows = distinct(tokens, shape[0])
        d_items = gradient.new_zeros(shape[0] if met is None else len(met), shape[1])
        d_places = gradient.new_zeros(places_shape)
        _run_embedding("backward", rows, offsets, d_items, d_places, gradient, drawn)
        if met is not None:
            d_items = torch.sparse_coo_tensor(met[None], d_items, shape, is_coalesced=True, check_invariants=False)
        return d_items, d_places, None, None, None, None


def _run_embedding(
    direction: str, rows: Tensor, offsets: Tensor, items: Tensor, places: Tensor, x: Tensor, drawn: tuple[int, float, int]
) -> None:
    pointers = (tensor.data_ptr() for tensor in (rows, offsets, items, places, x))
    job = _Embedding(len(offsets) - 1, x.shape[1], drawn[0], drawn[1], torch.get_num_threads(), drawn[2], *pointers)
    getattr(library(), f"userclue_embed_{direction}")(ctypes.addressof(job))


def first_products(items: Tensor, places: Tensor, weights: Sequence[Tensor], shape: Shape) -> FirstProducts:
    """Of the embeddings [V, D] and [P, D], by the first block's `weights`; a row's bits do not depend on the other rows."""
    given = [items.contiguous(), places.contiguous(), *weights[:2], *weights[8:10]]
    dim = items.shape[1]
    made = FirstProducts(*(items.new_empty(*rows, 3 * dim) for rows in ((len(items),), (len(places),), ())))
    norm = [0, 0] if shape.post else [weight.data_ptr() for weight in given[4:]]
    pointers = *(tensor.data_ptr() for tensor in given[:4]), *norm, *(tensor.data_ptr() for tensor in made)
    job = _First(dim, len(items), len(places), torch.get_num_threads(), *pointers)
    library().userclue_first(ctypes.addressof(job))
    return made


def fused_blocks(
    x: Tensor,
    layout: Layout,
    weights: Sequence[Tensor],
    shape: Shape,
    generator: torch.Generator | None,
    last_only: bool,
    first: tuple[FirstProducts, Tensor] | None = None,
) -> Tensor:
    """Blocks in turn, [N, D] → [N, D], or [B, D] for the last token of each sequence; `weights` block by block in the order of ORDER.

    Two weights more are those of a layer norm behind the last block.
    first: products of the first block, and the row int64 [N] of each token's among the items'; two blocks or more, and no gradients.
    """
    drops = generator is not None and shape.p > 0.0
    drawn = [draw(shape.p, generator) if drops else NO_MASK for _ in range(len(weights) // (2 * len(ORDER)))]  # type: ignore[arg-type]
    if torch.is_grad_enabled():
        out: Tensor = _Blocks.apply(x.contiguous(), layout, shape, drawn, last_only, *weights)  # type: ignore[no-untyped-call]
        return out
    jobs, out, _ = _jobs(x.contiguous(), layout, shape, drawn, last_only, weights, keep=False)
    if first is not None:
        given = *first[0], first[1].contiguous(), layout.from_end.contiguous()
        for name, tensor in zip(("items", "places", "bias", "rows", "positions"), given, strict=True):
            setattr(jobs[0], name, tensor.data_ptr())
    _call("forward", jobs)
    return out


class _Blocks(torch.autograd.Function):
    """Keeps 7 to 8 rows of D a token and block, 12 of a short history (last token alone: some of a sequence); the rest is formed again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout, shape: Shape, drawn: Any, last: bool, *weights: Tensor) -> Tensor:
        ctx.jobs, out, ctx.kept = _jobs(x, layout, shape, drawn, last, weights, keep=True)
        _call("forward", ctx.jobs)
        ctx.save_for_backward(x, layout.offsets, *weights)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, _, *weights = ctx.saved_tensors  # those that the jobs of the forward pass point to
        gradient, d_x = gradient.contiguous(), torch.empty_like(x)
        d_weights = x.new_empty(sum(weight.numel() for weight in weights))
        first, last = ctx.jobs[0], ctx.jobs[-1]
        last.d_out, first.d_x, first.d_weights = gradient.data_ptr(), d_x.data_ptr(), d_weights.data_ptr()
        _call("backward", ctx.jobs)
        return d_x, None, None, None, None, *torch._utils._unflatten_dense_tensors(d_weights, weights)


def _jobs(
    x: Tensor, layout: Layout, shape: Shape, drawn: Sequence[tuple[int, float, int]], last: bool, weights: Sequence[Tensor], keep: bool
) -> tuple[ctypes.Array[_Job], Tensor, Tensor | None]:
    """A struct a block, the result to be written, and with `keep` the memory of what the backward pass wants."""
    (n, dim), sequences, blocks, own = x.shape, layout.size, len(drawn), 2 * len(ORDER)
    width = _width(layout, shape, dim) if keep else 0
    out = x.new_empty(sequences if last else n, dim)
    ends = [block == blocks - 1 for block in range(blocks)]
    final = len(weights) % own > 0
    sizes = [_sizes(n, sequences, dim, shape, width, last and end, final and end) for end in ends] if keep else []
    kept = x.new_empty(sum(map(sum, sizes)) + (blocks - 1) * n * dim) if keep else None
    place, pointers = kept.data_ptr() if kept is not None else 0, [weight.data_ptr() for weight in weights]
    jobs = (_Job * blocks)()
    for block, (dropped, scale, seed) in enumerate(drawn):
        given = n, sequences, dim, shape.heads, width, shape.post, shape.causal, last and ends[block], dropped, scale
        learned = pointers[block * own : None if ends[block] else (block + 1) * own]
        job = _Job(*given, torch.get_num_threads(), seed, layout.offsets.data_ptr(), *learned)
        for name, size in zip(_KEPT, sizes[block] if keep else (), strict=keep):
            setattr(job, name, place if size else None)
            place += x.element_size() * size
        if keep and block < blocks - 1:
            job.out, place = place, place + x.element_size() * n * dim
        jobs[block] = job
    jobs[0].x, jobs[-1].out = x.data_ptr(), out.data_ptr()
    return jobs, out, kept


def _width(layout: Layout, shape: Shape, dim: int) -> int:
    """Floats that a token's row of attention is kept in, a head; 0 where histories are so long that it is cheaper formed again."""
    width = -(-layout.longest // WIDEST) * WIDEST
    return width if width * shape.heads <= 4 * dim else 0


def _sizes(n: int, sequences: int, dim: int, shape: Shape, width: int, last: bool, final: bool) -> list[int]:
    """Floats of what a block keeps, in the order of _KEPT, each on a cache line of its own."""
    rows, lanes = sequences if last else n, -(-shape.heads // WIDEST) * WIDEST
    all_tokens = 3 * n * dim, 2 * n * shape.heads, n * shape.heads * width, 0
    attention = (sequences * dim, n * lanes, 0, sequences * shape.heads * dim) if last else all_tokens
    norms = rows * dim if shape.post else 0, 2 * (rows if shape.post else n), 2 * rows, rows * dim * final, 2 * rows * final
    sizes = *attention, *(rows * dim,) * 3, *norms
    return [-(-size // WIDEST) * WIDEST for size in sizes]


def _call(direction: str, jobs: ctypes.Array[_Job]) -> None:
    getattr(library(), f"userclue_blocks_{direction}")(ctypes.addressof(jobs), len(jobs))
