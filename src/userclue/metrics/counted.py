"""How many items score at least as much as the target, by the compiled kernel (kernels/ranking.c): no score is ever written down."""

import ctypes

import numpy as np
import torch
from torch import Tensor

from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM
from userclue.native import kernels, library

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_int64


class _Ranking(ctypes.Structure):
    """The C struct Ranking of kernels/ranking.c, field by field."""

    _fields_ = (
        *((name, _LONG) for name in ("n", "V", "D", "first")),
        ("threads", ctypes.c_int32),
        *((name, _POINTER) for name in ("vectors", "items", "bias", "targets", "seen", "offsets", "ahead", "ahead_seen")),
    )


def can_count(items: Tensor) -> bool:
    """Whether the kernel is there and takes items of this type, on this device."""
    return items.device.type == "cpu" and items.dtype == torch.float32 and kernels() is not None


def count_ahead(
    vectors: np.ndarray, items: Tensor, bias: Tensor | None, targets: np.ndarray, seen: Sequences | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Items that score at least the target's, the target too: among all, and how many of them are among the seen; int64 [n] each.

    vectors: float32 [n, D]. items: float32 [V, D]. bias: float32 [V]. targets: int [n]. The scores must be finite. Ties of equal items
    are exact: every score is formed by the same instructions, whatever stands beside it. Special tokens count in neither.
    """
    found = np.empty(len(targets), np.int64)
    among_seen = None if seen is None else np.empty(len(targets), np.int64)
    flat, offsets = (None, None) if seen is None else seen.gather()
    vectors, targets = np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(targets, np.int64)
    items, bias = items.detach().contiguous(), None if bias is None else bias.detach().contiguous()
    given = (array.ctypes.data if array is not None else 0 for array in (targets, flat, offsets, found, among_seen))
    tensors = (vectors.ctypes.data, items.data_ptr(), 0 if bias is None else bias.data_ptr())
    job = _Ranking(len(targets), *items.shape, FIRST_ITEM, torch.get_num_threads(), *tensors, *given)
    library().userclue_ranking(ctypes.addressof(job))
    return found, among_seen
