"""What a trainable module returns for one batch."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Step(NamedTuple):
    """The loss to minimise, and the numbers worth logging, computed only at the steps that are logged."""

    loss: Tensor
    metrics: Callable[[], dict[str, float]]
