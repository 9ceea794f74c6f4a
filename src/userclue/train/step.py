"""What a trainable module returns for one batch."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Step(NamedTuple):
    """The loss to minimise, and the numbers worth logging, computed only at the steps that are logged."""

    loss: Tensor
    metrics: Callable[[], dict[str, float]]


@runtime_checkable
class Follower(Protocol):
    """A part of the trained module that wants to know how far the run is, such as a target that follows the online network."""

    def follow(self, progress: float) -> None:
        """Called before each step with the share of the run that is done, in [0, 1]."""
