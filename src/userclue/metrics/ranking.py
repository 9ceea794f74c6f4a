"""Full ranking: where the true item stands among all candidates, and the metrics read off that rank.

One relevant item per instance; metrics are averaged over instances (paper, V-A: all candidates are ranked, never a sample).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from userclue.data.store import Sequences
from userclue.data.vocabulary import FIRST_ITEM
from userclue.metrics.blocks import Cells, Chunk, InnerProducts, Rows, chunks, chunks_of, parts
from userclue.metrics.counted import can_count, count_ahead

RANKING_METRICS = ("mrr", "recall", "ndcg")
# The rank of a target that is no candidate (unknown, or filtered as seen): beyond every cut-off, however small the catalogue.
NOT_RETRIEVABLE = np.iinfo(np.int64).max


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
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(f"scores must be [B, V] and targets [B]; found {scores.shape} and {targets.shape}")
    _refuse_outside(targets, scores.shape[1])
    _refuse_nan(scores)
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    # The target is at least itself, and that is the 1.
    found: np.ndarray = np.count_nonzero(scores >= own, axis=1).astype(np.int64)
    found[np.isneginf(own[:, 0])] = NOT_RETRIEVABLE
    return found


@torch.inference_mode()
def full_ranking(
    score: Rows | InnerProducts,
    n: int,
    targets: np.ndarray,
    seen: Sequences | None = None,
    *,
    memory_bytes: int = 1 << 25,
) -> RankingResult:
    """Ranks of n targets among all items, a block of scores at a time so that [n, V] never exists.

    score: InnerProducts, or a function that takes instance numbers int64 [b] and returns float [b, V], which is only read.
    targets: int [n], vocabulary indices. seen: the input items of each instance. Special tokens are never candidates; a target that
    is one (an unknown item), and in `ranks_unseen` a target that is among the seen, is NOT_RETRIEVABLE. memory_bytes bounds the scores
    that a function is asked for at once; one row always fits.
    Raises ValueError on NaN scores, on targets outside the vocabulary and on lengths that differ.
    """
    targets = np.asarray(targets)
    if len(targets) != n or (seen is not None and len(seen) != n):
        raise ValueError(f"{n} instances, but {len(targets)} targets" + ("" if seen is None else f" and {len(seen)} histories"))
    among_all = np.empty(n, np.int64)
    among_unseen = None if seen is None else np.empty(n, np.int64)
    # By target: the blocks that hold targets are formed a second time, and neighbours then share theirs.
    order = np.argsort(targets, kind="stable") if isinstance(score, InnerProducts) else np.arange(n)
    for rows, found in _ranked(score, order, targets, seen, memory_bytes):
        among_all[rows] = found.ranks_all
        if among_unseen is not None and found.ranks_unseen is not None:
            among_unseen[rows] = found.ranks_unseen
    return RankingResult(among_all, among_unseen)


def _ranked(
    score: Rows | InnerProducts, order: np.ndarray, targets: np.ndarray, seen: Sequences | None, memory_bytes: int
) -> Iterator[tuple[np.ndarray, RankingResult]]:
    """Some of the instances in the given order, and their ranks."""

    def of_chunks(found: Iterable[Chunk]) -> Iterator[tuple[np.ndarray, RankingResult]]:
        for chunk in found:
            rows = chunk.instances
            yield rows, _chunk_ranks(chunk, targets[rows], None if seen is None else seen.take(rows))

    if not isinstance(score, InnerProducts):
        yield from of_chunks(chunks(score, order, memory_bytes))
        return
    for rows, vectors, finite in parts(score, order):
        if finite and can_count(score.items):
            yield rows, _counted_ranks(score, vectors, targets[rows], None if seen is None else seen.take(rows))
        else:
            yield from of_chunks(chunks_of(score, rows, vectors, finite))


def _counted_ranks(score: InnerProducts, vectors: Tensor, targets: np.ndarray, seen: Sequences | None) -> RankingResult:
    _refuse_outside(targets, len(score.items))
    among_all, among_seen = count_ahead(vectors.numpy(), score.items, score.bias, targets, seen)
    lost = targets < FIRST_ITEM
    if seen is None or among_seen is None:
        return _result(targets, lost, among_all)
    return _result(targets, lost, among_all, among_all - among_seen, Cells.of(seen))


def _chunk_ranks(chunk: Chunk, targets: np.ndarray, seen: Sequences | None) -> RankingResult:
    _refuse_outside(targets, chunk.width)
    own, block = _own_scores(chunk, targets)
    cells = None if seen is None else Cells.of(seen)
    found = torch.zeros(2, len(targets), dtype=torch.int64, device=own.device)
    for begin, end in chunk.ranges():
        # Ones and zeros in the scores' own place and type, which PyTorch adds several times faster than truth values; a block is
        # narrow enough for float32 to count.
        ahead = (chunk.block(begin, end) if block is None else block).ge_(own[:, None])
        found[0] += ahead.sum(dim=1).long()
        if cells is not None:
            cells.overwrite(ahead, begin, 0.0)
            found[1] += ahead.sum(dim=1).long()
    among_all, among_unseen = found.cpu().numpy()
    return _result(targets, own.isneginf().cpu().numpy(), among_all, among_unseen, cells)


def _result(
    targets: np.ndarray, lost: np.ndarray, among_all: np.ndarray, among_unseen: np.ndarray | None = None, cells: Cells | None = None
) -> RankingResult:
    """The counts as ranks; lost: bool [b], targets that are no candidates."""
    among_all[lost] = NOT_RETRIEVABLE
    if among_unseen is None or cells is None:
        return RankingResult(among_all, None)
    among_unseen[lost] = NOT_RETRIEVABLE
    among_unseen[cells.row[cells.item == targets[cells.row]]] = NOT_RETRIEVABLE
    return RankingResult(among_all, among_unseen)


def _own_scores(chunk: Chunk, targets: np.ndarray) -> tuple[Tensor, Tensor | None]:
    """The targets' scores [b], read from the very blocks that are counted, so that rounding neither makes nor breaks a tie.

    -inf for special tokens. Where one block holds all columns, that block too: it need not be formed again.
    """
    ranges = chunk.ranges()
    own = chunk.empty(len(targets)).fill_(-np.inf)
    block = None
    for begin, end in ranges:
        here = np.flatnonzero((targets >= begin) & (targets < end))
        if len(here):
            block = chunk.block(begin, end)
            place = [torch.from_numpy(one).to(own.device) for one in (here, targets[here].astype(np.int64) - begin)]
            own[place[0]] = block[place[0], place[1]]
    return own, block if len(ranges) == 1 else None


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


@torch.inference_mode()
def best_items(
    score: Rows | InnerProducts, n: int, k: int, seen: Sequences | None = None, *, memory_bytes: int = 1 << 25
) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of n instances, best first, of equal scores the lower index first: (vocabulary indices int64, scores), [n, k].

    score, memory_bytes: as in `full_ranking`. seen: items that are no candidates, for each instance. k must not exceed the number of
    items; where fewer candidates remain, the scores end in -inf. Raises ValueError on NaN scores.
    """
    best = np.empty((n, k), np.int64)
    values = np.empty((n, k), np.float32)
    for chunk in chunks(score, np.arange(n), memory_bytes):
        cells = None if seen is None else Cells.of(seen.take(chunk.instances))
        index, value = np.empty((len(chunk.instances), 0), np.int64), np.empty((len(chunk.instances), 0), np.float32)
        for begin, end in chunk.ranges():
            block = chunk.block(begin, end)
            if cells is not None:
                cells.overwrite(block, begin, -np.inf)
            scores = block.cpu().numpy()
            place = top_k(scores, k)
            # What was kept comes first and has the lower indices, so that ties stay in order.
            index = np.concatenate([index, place + begin], axis=1)
            value = np.concatenate([value, np.take_along_axis(scores, place, axis=1)], axis=1)
            place = top_k(value, k)
            index, value = np.take_along_axis(index, place, axis=1), np.take_along_axis(value, place, axis=1)
        best[chunk.instances], values[chunk.instances] = index, value
    return best, values


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


def _refuse_outside(targets: np.ndarray, width: int) -> None:
    if targets.size and (targets.min() < 0 or targets.max() >= width):
        raise ValueError(f"targets must lie in 0…{width - 1}; found {targets.min()}…{targets.max()}")


def _refuse_nan(scores: np.ndarray) -> None:
    # A minimum carries NaN along without making a second array.
    if scores.size and np.isnan(scores.min()):
        row = int(np.flatnonzero(np.isnan(scores).any(axis=1))[0])
        raise ValueError(f"scores of row {row} hold NaN, which has no rank; the model diverged or its input is broken")
