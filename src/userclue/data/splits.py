"""Who is learned from and who is tested on: by user, leave-one-out, by time. Pure functions of arrays; no loop over users."""

from dataclasses import dataclass

import numpy as np

from userclue.data.store import Sequences, gather
from userclue.errors import DataError, UsageError


@dataclass(frozen=True, eq=False)
class UserSplit:
    """Positions of users, int64, sorted, disjoint; together every user."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, eq=False)
class Instances:
    """Labelled histories: `inputs[i]`, of user `users[i]` (int64, position in the dataset), has `targets[i]` (item or class index)."""

    inputs: Sequences
    targets: np.ndarray
    users: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, chosen: np.ndarray) -> "Instances":
        """The chosen instances, in that order."""
        return Instances(self.inputs.take(chosen), self.targets[chosen], self.users[chosen])


@dataclass(frozen=True, eq=False)
class NextItemSplit:
    """`train` keeps every user's position (some may be empty); no event of it is at or after that user's validation target."""

    train: Sequences
    valid: Instances
    test: Instances


def split_users(
    n_users: int, seed: int, shares: tuple[float, float, float] = (0.80, 0.05, 0.15), groups: np.ndarray | None = None
) -> UserSplit:
    """Part users at random into train, valid and test (the paper's 80/5/15), none of them empty.

    groups: int [n_users]; users of one group (the windows of one person) stay in one part, and shares are of groups.
    Raises UsageError for shares that are not three positive numbers of sum 1, DataError for fewer than three users or groups.
    """
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise UsageError(f"shares {'/'.join(f'{share:g}' for share in shares)}: give three positive numbers that add up to 1")
    codes = np.arange(n_users) if groups is None else np.unique(groups, return_inverse=True)[1]
    n = int(codes.max()) + 1 if len(codes) else 0
    if n < 3:
        raise DataError(f"{n} users cannot be parted into train, valid and test; three are the fewest")
    valid = min(max(1, round(n * shares[1])), n - 2)
    test = min(max(1, round(n * shares[2])), n - 1 - valid)
    part = np.zeros(n, np.int8)
    order = np.random.default_rng(seed).permutation(n)
    part[order[:valid]] = 1
    part[order[valid : valid + test]] = 2
    train_users, valid_users, test_users = (np.flatnonzero(part[codes] == which) for which in range(3))
    return UserSplit(train_users, valid_users, test_users)


def leave_one_out(sequences: Sequences, min_events: int = 3) -> NextItemSplit:
    """Each user's last event is the test target, the one before it the validation target, the rest is trained on.

    Users with fewer than `min_events` (at least 3) stay in train whole and are not evaluated.
    Raises DataError when no user has enough events, UsageError for `min_events` below 3.
    """
    if min_events < 3:
        raise UsageError(f"min_events {min_events}: leave-one-out needs at least 3 (one to learn from, one to validate, one to test)")
    lengths = sequences.lengths
    users = np.flatnonzero(lengths >= min_events)
    if not len(users):
        raise DataError(
            f"no user has the {min_events} events that leave-one-out needs; the longest history has {int(lengths.max(initial=0))}; "
            "give a longer log or another split"
        )
    ends = np.where(lengths >= min_events, sequences.ends - 2, sequences.ends)
    evaluated = sequences.take(users)
    return NextItemSplit(
        train=Sequences(sequences.items, sequences.starts, ends),
        valid=_instances(evaluated, evaluated.ends - 2, users),
        test=_instances(evaluated, evaluated.ends - 1, users),
    )


def time_split(
    sequences: Sequences,
    times: np.ndarray | None,
    cuts: tuple[int, int] | None = None,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> NextItemSplit:
    """Two global cuts t1 < t2: train before t1, each user's first event in [t1, t2) validates, the first at or after t2 tests.

    times: int64 epoch ms of every event, parallel to `sequences.items`, rising within a user. cuts: epoch ms; by default the
    quantiles of event time at which `shares` of the events lie before, between and after (needs 8 bytes an event for a moment).
    Inputs are the user's events strictly before the part's own cut, and never empty.
    Raises UsageError for a log without times or wrong cuts, DataError when no user can be validated or tested.
    """
    if times is None:
        raise UsageError("a split by time needs times, and this dataset has none; prepare it with --time-col, or use leave-one-out")
    if cuts is None:
        cuts = _cuts(sequences, times, shares)
    t1, t2 = cuts
    if t1 >= t2:
        raise UsageError(f"cuts {t1} and {t2} (epoch ms): the first must be earlier")
    first_valid = first_at_or_after(sequences, times, t1)
    first_test = first_at_or_after(sequences, times, t2)
    valid = np.flatnonzero((first_valid < first_test) & (first_valid > sequences.starts))
    test = np.flatnonzero((first_test < sequences.ends) & (first_test > sequences.starts))
    for users, name in ((valid, f"between {t1} and {t2}"), (test, f"at or after {t2}")):
        if not len(users):
            raise DataError(f"no user has events both before and {name} (epoch ms); choose other cuts or leave-one-out")
    return NextItemSplit(
        train=Sequences(sequences.items, sequences.starts, first_valid),
        valid=_instances(sequences.take(valid), first_valid[valid], valid),
        test=_instances(sequences.take(test), first_test[test], test),
    )


def _instances(sequences: Sequences, targets_at: np.ndarray, users: np.ndarray) -> Instances:
    """Inputs end where the target stands, so that no target's position is in its input."""
    inputs = Sequences(sequences.items, sequences.starts, targets_at)
    return Instances(inputs, np.asarray(sequences.items[targets_at], np.int32), users.astype(np.int64))


def _cuts(sequences: Sequences, times: np.ndarray, shares: tuple[float, float, float]) -> tuple[int, int]:
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise UsageError(f"shares {'/'.join(f'{share:g}' for share in shares)}: give three positive numbers that add up to 1")
    flat, _ = gather(times, sequences.starts, sequences.ends)
    if not len(flat):
        raise DataError("a split by time needs events, and there are none")
    at = [min(int(len(flat) * share), len(flat) - 1) for share in (shares[0], shares[0] + shares[1])]
    flat.partition(at)
    t1, t2 = (int(flat[place]) for place in at)
    if t1 >= t2:
        raise DataError(f"too many events share the time {t1} (epoch ms) to cut by quantiles; give cuts, or use leave-one-out")
    return t1, t2


def first_at_or_after(sequences: Sequences, times: np.ndarray, cut: int | np.ndarray) -> np.ndarray:
    """Position of each user's first event at or after `cut` (its end when there is none): all users' binary searches in step.

    cut: epoch ms, one for all or int64 [B].
    """
    cuts = np.broadcast_to(cut, len(sequences))
    low, high = sequences.starts.copy(), sequences.ends.copy()
    open_ = np.flatnonzero(low < high)
    while len(open_):
        middle = (low[open_] + high[open_]) // 2
        before = np.asarray(times[middle]) < cuts[open_]
        low[open_] = np.where(before, middle + 1, low[open_])
        high[open_] = np.where(before, high[open_], middle)
        open_ = open_[low[open_] < high[open_]]
    return low
