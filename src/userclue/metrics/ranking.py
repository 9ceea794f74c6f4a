"""Full ranking: where the true item stands among all candidates, and the metrics read off that rank.

One relevant item per instance; metrics are averaged over instances (paper, V-A: all candidates are ranked, never a sample).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM

RANKING_METRICS = ("mrr", "recall", "ndcg")
# The rank of a target that is no candidate (unknown, or filtered as seen): beyond every cut-off, however small the catalogue.
NOT_RETRIEVABLE = np.iinfo(np.int64).max
_BYTES_PER_SCORE = 6  # a float32 score, its comparison, and a boolean on the way
_FIRST_CHUNK = 16  # rows scored before the width of a row is known


@dataclass(frozen=True, eq=False)
class RankingResult:
    """int64 [n] each. ranks_all: among all items. ranks_unseen: among the items not in the instance's input; None if no input was given."""

    ranks_all: np.ndarray
    ranks_unseen: np.ndarray | None


def ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """1 + the number of other candidates whose score is at least the target's: ties count against the model.

    scores: float [B, V], -inf where a column is no candidate. targets: column of the true item, int [B]. Returns int64 [B];
    NOT_RETRIEVABLE where the target's own score is -inf. Raises ValueError on NaN and on targets outside the columns.
    """
    scores, targets = _checked(scores, targets)
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    # The target is at least itself, and that is the 1.
    found: np.ndarray = np.count_nonzero(scores >= own, axis=1).astype(np.int64)
    found[np.isneginf(own[:, 0])] = NOT_RETRIEVABLE
    return found


def full_ranking(
    score: Callable[[np.ndarray], np.ndarray],
    n: int,
    targets: np.ndarray,
    seen: Sequences | None = None,
    *,
    memory_bytes: int = 1 << 25,
) -> RankingResult:
    """Ranks of n targets among all items, a chunk of instances at a time so that [n, V] never exists.

    score: takes instance numbers int64 [b], returns float [b, V], which is only read. targets: int [n], vocabulary indices.
    seen: the input items of each instance. Special tokens are never candidates; a target that is one (an unknown item), and in
    `ranks_unseen` a target that is among the seen, is NOT_RETRIEVABLE. memory_bytes bounds the scores held at once; one row always fits.
    Raises ValueError on NaN scores and on lengths that differ.
    """
    targets = np.asarray(targets)
    if len(targets) != n or (seen is not None and len(seen) != n):
        raise ValueError(f"{n} instances, but {len(targets)} targets" + ("" if seen is None else f" and {len(seen)} histories"))
    among_all = np.empty(n, np.int64)
    among_unseen = None if seen is None else np.empty(n, np.int64)
    begin, rows = 0, _FIRST_CHUNK
    while begin < n:
        instances = np.arange(begin, min(n, begin + rows))
        scores = score(instances)
        if len(scores) != len(instances):
            raise ValueError(f"{len(instances)} instances asked for, {len(scores)} rows of scores given")
        chunk = slice(begin, begin + len(instances))
        among_all[chunk], unseen = _chunk_ranks(scores, targets[chunk], None if seen is None else seen.take(instances))
        if among_unseen is not None and unseen is not None:
            among_unseen[chunk] = unseen
        begin += len(instances)
        rows = max(1, memory_bytes // (_BYTES_PER_SCORE * scores.shape[1]))
    return RankingResult(among_all, among_unseen)


def _chunk_ranks(scores: np.ndarray, targets: np.ndarray, seen: Sequences | None) -> tuple[np.ndarray, np.ndarray | None]:
    scores, targets = _checked(scores, targets)
    rows = np.arange(len(targets))
    own = scores[rows, targets]
    ahead = scores >= own[:, None]
    ahead[:, :FIRST_ITEM] = False
    lost = np.isneginf(own) | (targets < FIRST_ITEM)
    among_all = np.count_nonzero(ahead, axis=1).astype(np.int64)
    among_all[lost] = NOT_RETRIEVABLE
    if seen is None:
        return among_all, None
    flat, offsets = seen.gather()
    owner = np.repeat(rows, np.diff(offsets))
    # Clearing a cell twice is clearing it once, so an item seen twice is taken away once.
    ahead[owner, flat] = False
    among_unseen = np.count_nonzero(ahead, axis=1).astype(np.int64)
    among_unseen[lost] = NOT_RETRIEVABLE
    among_unseen[owner[flat == targets[owner]]] = NOT_RETRIEVABLE
    return among_all, among_unseen


def ranking_metrics(ranks: np.ndarray, k: int = 10) -> dict[str, np.ndarray]:
    """Per-instance mrr@k, recall@k and ndcg@k from ranks int [n]; float64 [n] each, 0 where the rank is beyond k.

    With one relevant item: reciprocal rank 1/r, recall 1, NDCG 1/log2(1 + r).
    """
    ranks = np.asarray(ranks)
    if ranks.size and ranks.min() < 1:
        raise ValueError(f"ranks begin at 1; found {ranks.min()}")
    hit = ranks <= k
    place = np.where(hit, ranks, 1).astype(np.float64)
    return {f"mrr@{k}": hit / place, f"recall@{k}": hit.astype(np.float64), f"ndcg@{k}": hit / np.log2(1.0 + place)}


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k highest scores of each row, best first; of equal scores the lower column first. int64 [B, min(k, V)].

    scores: float [B, V]. Columns at -inf come last and are not left out. Raises ValueError on NaN.
    """
    scores = np.asarray(scores)
    _refuse_nan(scores)
    n_rows, width = scores.shape
    if k >= width:
        return np.argsort(-scores, axis=1, kind="stable")
    if k < 1 or n_rows == 0:
        return np.empty((n_rows, max(0, k)), np.int64)
    chosen = np.argpartition(scores, width - k, axis=1)[:, width - k :]
    # The partition takes any of the scores equal to the k-th; where some were left behind, take the lowest columns instead.
    worst = np.take_along_axis(scores, chosen, axis=1).min(axis=1)
    tied = np.flatnonzero(np.count_nonzero(scores >= worst[:, None], axis=1) > k)
    if len(tied):
        some, cut = scores[tied], worst[tied, None]
        above, equal = some > cut, some == cut
        room = k - np.count_nonzero(above, axis=1)
        kept = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room[:, None]))
        chosen[tied] = np.nonzero(kept)[1].reshape(-1, k)
    chosen.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1).astype(np.int64)


def _checked(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(f"scores must be [B, V] and targets [B]; found {scores.shape} and {targets.shape}")
    if targets.size and (targets.min() < 0 or targets.max() >= scores.shape[1]):
        raise ValueError(f"targets must lie in 0…{scores.shape[1] - 1}; found {targets.min()}…{targets.max()}")
    _refuse_nan(scores)
    return scores, targets


def _refuse_nan(scores: np.ndarray) -> None:
    # A minimum carries NaN along without making a second array.
    if scores.size and np.isnan(scores.min()):
        row = int(np.flatnonzero(np.isnan(scores).any(axis=1))[0])
        raise ValueError(f"scores of row {row} hold NaN, which has no rank; the model diverged or its input is broken")
