"""A head of pre-training as one compiled kernel (kernels/head.c), forward and backward, CPU, float32, several views in one call."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from userclue.native import library
from userclue.nn.fused import WIDEST, fits_whole

_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class _Layer(ctypes.Structure):
    """The C struct Layer of kernels/head.c, field by field."""

    _fields_ = (
        *((name, _LONG) for name in ("inputs", "outputs")),
        *((name, _INT) for name in ("norm", "relu")),
        *((name, _FLOAT) for name in ("momentum", "epsilon")),
        *((name, _POINTER) for name in ("weight", "bias", "scale", "shift", "mean", "variance", "seen", "moments", "normed", "result")),
    )


class _Head(ctypes.Structure):
    """The C struct Head of kernels/head.c, field by field."""

    _fields_ = (
        *((name, _LONG) for name in ("batch", "views", "layers")),
        ("threads", _INT),
        *((name, _POINTER) for name in ("layer", "x", "d_out", "d_x", "d_weights", "target", "loss")),
    )


class HeadLayer(NamedTuple):
    """A linear layer, the batch norm behind it if there is one, and whether a ReLU follows."""

    linear: nn.Linear
    norm: nn.BatchNorm1d | None
    relu: bool


def fits_head(layers: Sequence[HeadLayer], x: Tensor, views: int) -> bool:
    """Whether the kernel takes these rows [views · B, D] and widths: B of at least two, batch norms that are training."""
    return (
        bool(layers)
        and fits_whole(x)
        and len(x) % views == 0
        and len(x) >= 2 * views
        and all(one.linear.out_features % WIDEST == 0 and (one.norm is None or one.norm.training) for one in layers)
    )


def fused_head(layers: Sequence[HeadLayer], x: Tensor, views: int) -> Tensor:
    """[views · B, D] → [views · B, W]. Every batch norm sees each view on its own and counts it in its running statistics, in order."""
    out: Tensor = _Fused.apply(x.contiguous(), views, layers, None, *_weights(layers))  # type: ignore[no-untyped-call]
    return out


def fused_comparison(layers: Sequence[HeadLayer], x: Tensor, views: int, targets: int) -> tuple[Tensor, Tensor]:
    """The mean negative cosine of what comes out with the targets of the same users in the next view, and the targets [views · B, W].

    The first `targets` layers make the targets, which no gradient reaches.
    """
    out: tuple[Tensor, Tensor] = _Fused.apply(x.contiguous(), views, layers, targets, *_weights(layers))  # type: ignore[no-untyped-call]
    return out


def _weights(layers: Sequence[HeadLayer]) -> list[Tensor]:
    """All there are, in the order in which the kernel hands out their gradients."""
    modules = [module for linear, norm, _ in layers for module in (linear, norm) if module is not None]
    return [weight for module in modules for weight in (module.weight, module.bias) if weight is not None]


class _Fused(torch.autograd.Function):
    """Keeps of each layer the normalised and the final rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, views: int, layers: Sequence[HeadLayer], targets: int | None, *weights: Tensor) -> Any:
        out = target = x.new_empty(len(x), layers[-1].linear.out_features)
        ctx.layers, ctx.kept = _structs(layers, x, views, out)
        ctx.head = _Head(len(x) // views, views, len(layers), torch.get_num_threads(), ctypes.addressof(ctx.layers), x.data_ptr())
        if targets is not None:
            if targets < len(layers):
                target = torch.empty_like(out)
                ctx.layers[targets - 1].result = target.data_ptr()
            loss = x.new_empty(())
            ctx.head.target, ctx.head.loss = target.data_ptr(), loss.data_ptr()
        ctx.save_for_backward(x, out, target, *weights)  # those that the structs point to
        _call("forward", ctx.head)
        if targets is None:
            return out
        ctx.mark_non_differentiable(target)
        return loss, target

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: None) -> Any:
        x, _, _, *weights = ctx.saved_tensors
        gradient, d_x, sizes = gradient.contiguous(), torch.empty_like(x), [weight.numel() for weight in weights]
        d_weights = x.new_empty(sum(sizes))
        ctx.head.d_x, ctx.head.d_weights = d_x.data_ptr(), d_weights.data_ptr()
        setattr(ctx.head, "loss" if ctx.head.target else "d_out", gradient.data_ptr())
        _call("backward", ctx.head)
        return d_x, None, None, None, *(part.view_as(weight) for part, weight in zip(d_weights.split(sizes), weights, strict=True))


def _structs(layers: Sequence[HeadLayer], x: Tensor, views: int, out: Tensor) -> tuple[ctypes.Array[_Layer], Tensor]:
    """The layers for the kernel, and the memory into which they point for what is kept."""
    widths = [linear.out_features for linear, _, _ in layers]
    kept = x.new_empty(sum((2 * len(x) + 2 * views) * width for width in widths))
    structs, place = (_Layer * len(layers))(), kept.data_ptr()
    for struct, (linear, norm, relu), width in zip(structs, layers, widths, strict=True):
        struct.inputs, struct.outputs, struct.norm, struct.relu = linear.in_features, width, norm is not None, relu
        struct.weight, struct.bias = linear.weight.data_ptr(), _pointer(linear.bias)
        if norm is not None:
            struct.momentum, struct.epsilon = norm.momentum, norm.eps
            struct.scale, struct.shift = _pointer(norm.weight), _pointer(norm.bias)
            struct.mean, struct.variance, struct.seen = map(_pointer, (norm.running_mean, norm.running_var, norm.num_batches_tracked))
        struct.normed, place = place, place + len(x) * width * x.element_size()
        struct.result, place = place, place + len(x) * width * x.element_size()
        struct.moments, place = place, place + 2 * views * width * x.element_size()
    struct.result = out.data_ptr()
    return structs, kept


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _call(direction: str, head: _Head) -> None:
    getattr(library(), f"userclue_head_{direction}")(ctypes.addressof(head))
