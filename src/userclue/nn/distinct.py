"""The distinct rows of a table that tokens name: on a CPU by a compiled kernel (kernels/distinct.c), else as PyTorch sorts them."""

import ctypes

import torch
from torch import Tensor

from userclue.native import kernels


def distinct(rows: Tensor, table: int) -> tuple[Tensor, Tensor]:
    """The distinct of `rows`, int64 [N] in 0…table − 1, rising [U], and each one's place among them [N]."""
    library = kernels() if rows.device.type == "cpu" else None
    if library is None or max(table, len(rows)) >= 2**31:
        met, places = rows.unique(return_inverse=True)
        return met, places
    rows, count = rows.contiguous(), ctypes.c_int64()
    met, places = torch.empty_like(rows), torch.empty_like(rows)
    library.userclue_distinct(rows.data_ptr(), len(rows), table, met.data_ptr(), places.data_ptr(), ctypes.addressof(count))
    return met[: count.value], places
