"""Watches a siamese run for collapse (FACTS of SimSiam: per-channel std of z/‖z‖ is 1/√D when healthy, 0 when collapsed)."""

from userclue.errors import UsageError
from userclue.train.journal import Row

UNHEALTHY_STD = 1 / 3
PERFECT_LOSS, FLAT_RANK = -0.999, 2.0
STRANGERS = 2.0  # the alignment of vectors that have nothing to do with each other
NEAR_STRANGERS = 0.9 * STRANGERS
PATIENCE = 3


class CollapseMonitor:
    """Collects warnings from the logged rows: full collapse, from `effective_rank` dimensional collapse, and that nothing was learned.

    A collapse shows as `std_sqrt_d` below a third of the healthy 1. Where a batch norm ends the projector, it stretches whatever
    difference is left to unit variance and hides that: there it shows as perfect agreement (loss −1, or for objectives whose loss has
    no such end an alignment of 0) on a line (rank below 2). Before a run takes hold, which may take thousands of steps, a user's two views
    are as far apart as two strangers, and the high rank beside it is the random start's.
    """

    def __init__(self, dim: int, stop: bool) -> None:
        self.dim, self.stop = dim, stop
        self._bad_rows = self._apart_rows = 0
        self._rank: float | None = None

    @property
    def collapsed(self) -> bool:
        """Whether the last `PATIENCE` logged rows all showed a collapse."""
        return self._bad_rows >= PATIENCE

    def __call__(self, row: Row) -> None:
        """Read a row; UsageError at the collapse when told to stop."""
        std = row.get("std_sqrt_d")
        if std is None:
            return
        agree = (row.get("loss") or 0) < PERFECT_LOSS or row.get("alignment", STRANGERS) < STRANGERS * (1 + PERFECT_LOSS)
        flat = agree and row.get("projection_rank", self.dim) < FLAT_RANK
        self._bad_rows = self._bad_rows + 1 if std < UNHEALTHY_STD or flat else 0
        self._apart_rows = self._apart_rows + 1 if (row.get("alignment") or 0.0) > NEAR_STRANGERS else 0
        self._rank = row.get("effective_rank", self._rank)
        if self.collapsed and self.stop:
            raise UsageError(f"step {row.get('step')}: {_COLLAPSED}; stopped because of on_collapse=stop")

    def warnings(self) -> list[str]:
        """What a reader of the result should know, with what to change."""
        if self.collapsed:
            return [_COLLAPSED]
        if self._apart_rows >= PATIENCE:
            return [_NOTHING_LEARNED]
        if self._rank is not None and self._rank < self.dim / 8:
            return [
                f"dimensional collapse: the vectors span an effective rank of {self._rank:.1f} of {self.dim} dimensions although "
                "std_sqrt_d looks healthy; a lower dropout (0.1 to 0.3), a larger batch or longer training usually raises it"
            ]
        return []


_COLLAPSED = (
    "the representations have collapsed: all users get nearly the same projection (std_sqrt_d below a third of the healthy 1, or "
    "loss −1 on a line); keep stop_gradient and predictor on, raise batch_size, or lower lr"
)

_NOTHING_LEARNED = (
    "pre-training has not taken hold: the two views of a user agree hardly more than two strangers do "
    f"(alignment above {NEAR_STRANGERS:g}, theirs is {STRANGERS:g}), and the effective rank is that of the random start; train longer, "
    "lower dropout (0.1 to 0.3), or take preset best"
)
