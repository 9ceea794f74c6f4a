"""The wide part of a head: a linear term on the bag of the whole history, beside the deep vector (Cheng et al. 2016, section 3.1).

It is fitted by itself, by a convex or closed form, and the validation part weighs it against the network: logits are
share · wide + (1 - share) · deep. The basis of the bag is learned from all histories of the dataset, labelled or not.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import solve_triangular
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from userclue.data.counts import item_events
from userclue.data.factors import Bag
from userclue.data.splits import Instances
from userclue.data.store import Sequences
from userclue.data.transitions import Chain
from userclue.data.vocabulary import FIRST_ITEM
from userclue.metrics.blocks import InnerProducts
from userclue.metrics.ranking import full_ranking, ranking_metrics

RANK = 256
RANKS = (16, 32, 64, 128, RANK)  # cold start: what the validation instances choose from, by MRR@10, …
RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
UNTUNED_RANK, UNTUNED_RIDGE = 64, 30.0
DAMPING = 0.25  # the power of its count that a target of cold start is divided by; .15 and .35 did no better on validation users
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # profiling: inverse strengths of L2, from strong to weak, by log-loss
UNTUNED_PENALTY = 0.01
SHARPNESSES = (10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
UNTUNED_SHARPNESS = 40.0
REPEATS = (1.0, 0.3, 3.0, 0.1, 10.0, 0.03, 30.0, 0.01, 100.0, 0.001, 1000.0)  # next item: factors, the mildest first
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)  # of the wide part in the logits
UNTUNED_SHARE = 0.5
# As they were best on validation users: the power of an item's rarity, of a row's length that power is divided out; and against each
# other and the penalties bag, factors and length.
RARITY, SHORTENING = 1.5, 0.75
BAG_SCALE, FACTOR_SCALE, LENGTH_SCALE = 10.0, 15.0, 0.3
VECTOR_SCALES = (6.0, 12.0, 24.0)  # what the vectors' whole spread is brought to beside them
ABSENT = -20.0  # logit of a class that no training user has
TOLERANCE, ITERATIONS = 1e-3, 500


class Moments(NamedTuple):
    """What ridge regression needs of the training instances, centred: [R, R], [K, R], [R] and [K]."""

    factors: np.ndarray
    taken: np.ndarray
    mean: np.ndarray
    shares: np.ndarray


class WidePart(nn.Module):
    """Logits weight · [table' bag, ln(1 + events)] + bias, none of them trained.

    rarity [V] and shortening [1] make the bag's rows; table [V, R], weight [K, R + 1], bias [K].
    """

    def __init__(self, rarity: Tensor, table: Tensor, weight: Tensor, bias: Tensor, shortening: Tensor | None = None) -> None:
        super().__init__()
        shortening = torch.ones(1) if shortening is None else shortening  # a folder from before there was one
        for name, tensor in {"rarity": rarity, "table": table, "weight": weight, "bias": bias, "shortening": shortening}.items():
            self.register_buffer(name, tensor)
        self.rarity: Tensor
        self.shortening: Tensor
        self.table: Tensor
        self.weight: Tensor
        self.bias: Tensor

    @classmethod
    def of(cls, bag: Bag, table: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> "WidePart":
        """From arrays, in float32."""
        arrays = (bag.rarity, table, weight, bias, np.array([bag.shortening]))
        return cls(*(torch.from_numpy(np.ascontiguousarray(array, np.float32)) for array in arrays))

    def features(self, sequences: Sequences) -> np.ndarray:
        """float32 [B, R + 1]."""
        return _features(Bag(self.rarity.cpu().numpy(), float(self.shortening)), self.table.cpu().numpy(), sequences)

    def forward(self, features: Tensor) -> Tensor:
        """[B, R + 1] → logits [B, K]."""
        return features @ self.weight.T + self.bias


class Transitions(nn.Module):
    """What the next item is by the last one alone, and whether people come back to an item: log p(j).

    p(j) is proportional to ((1 - weight) softmax(logits) + weight P(j | last item)) · (repeat where the history holds j, else 1).

    indptr, indices, counts: n(i, j) of a Chain [V, V] in compressed rows; share [V]; weight [1], 0 … 1; repeat [1], above 0. None of them
    is trained.
    """

    def __init__(
        self, indptr: Tensor, indices: Tensor, counts: Tensor, share: Tensor, weight: Tensor, repeat: Tensor | None = None
    ) -> None:
        super().__init__()
        repeat = torch.ones(1) if repeat is None else repeat  # a folder from before there was one
        tensors = {"indptr": indptr, "indices": indices, "counts": counts, "share": share, "weight": weight, "repeat": repeat}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.share: Tensor
        self.weight: Tensor
        self.repeat: Tensor

    @classmethod
    def of(cls, chain: Chain, weight: float, repeat: float) -> "Transitions":
        """From a chain."""
        arrays = (chain.counts.indptr.astype(np.int64), chain.counts.indices.astype(np.int32), chain.counts.data, chain.share)
        return cls(*(torch.from_numpy(array) for array in (*arrays, np.array([weight], np.float32), np.array([repeat], np.float32))))

    def chain(self) -> Chain:
        """The chain they were made of."""
        indptr, indices, counts = (self.get_buffer(name).cpu().numpy() for name in ("indptr", "indices", "counts"))
        shape = (len(self.share),) * 2
        return Chain(sp.csr_array((counts, indices, indptr), shape=shape), self.share.cpu().numpy())

    def blended(self, chain: Chain, logits: np.ndarray, sequences: Sequences) -> np.ndarray:
        """Log-probabilities float32 [b, V] from the network's logits float32 [b, V] and whole histories; -inf for special tokens."""
        weight, repeat = float(self.weight), float(self.repeat)
        found = next_probabilities(logits) * (1 - weight)
        found += weight * chain.probabilities(sequences)
        if repeat != 1:
            found[item_events(sequences)] *= repeat  # once, however often the item was met
            found /= found.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore"):
            out: np.ndarray = np.log(found, out=found)
        return out


def next_probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the items of logits float32 [b, V]; 0 for special tokens."""
    found: np.ndarray = softmax(np.where(np.arange(logits.shape[1]) < FIRST_ITEM, -np.inf, logits), axis=1)
    return found


def _features(bag: Bag, table: np.ndarray, sequences: Sequences) -> np.ndarray:
    length = np.log1p(sequences.lengths).astype(np.float32)
    return np.concatenate([np.asarray(bag.rows(sequences) @ table, np.float32), length[:, None]], axis=1)


# A linear model on bag and vectors; the vectors' weights float64 [K, D], so that logits are part + weights · v; the loss of each
# validation user float64 [n].
_Fit = tuple[WidePart, np.ndarray, np.ndarray]


class Classifier:
    """Softmax regression (L2) on the bag, its factors, the length of a history, and vectors of the users where there are any."""

    def __init__(self, histories: Sequences, outputs: int, vocabulary_size: int, seed: int) -> None:
        self.bag, self.outputs = Bag.learned(histories, vocabulary_size, RARITY, SHORTENING), outputs
        self.basis = self.bag.basis(histories, RANK, seed)
        size = self.bag.typical_length(histories)
        self.bag_scale, self.factor_scale = BAG_SCALE / size, FACTOR_SCALE / size
        lengths = np.log1p(histories.lengths)
        self.mean, self.scale = float(lengths.mean()), LENGTH_SCALE / (float(lengths.std()) or 1.0)

    def fit(self, train: Instances, valid: Instances) -> WidePart:
        """Along the penalties from strong to weak, until the log-loss on `valid` rises."""
        return self.fit_with(train, valid, np.empty((len(train), 0)), np.empty((len(valid), 0)))[0]

    def fit_with(self, train: Instances, valid: Instances, vectors: np.ndarray, valid_vectors: np.ndarray) -> _Fit:
        """The same with vectors float [n, D] beside the bag, which count for as much as the loss on `valid` gives reason to."""
        mean, spread = vectors.mean(axis=0), vectors.std(axis=0) * np.sqrt(max(vectors.shape[1], 1))
        unit = 1.0 / np.where(spread > 0, spread, 1.0)
        design, fits = self._design(train.inputs), list[_Fit]()
        for scale in VECTOR_SCALES if vectors.shape[1] and len(valid) else VECTOR_SCALES[:1]:
            x = sp.csr_array(sp.hstack([design, sp.csr_array((vectors - mean) * unit * scale)], format="csr"))
            fits.append(self._along_penalties(x, train.targets, valid, (valid_vectors - mean) * unit * scale))
            part, weights, losses = fits[-1]
            weights *= unit * scale
            part.bias -= torch.from_numpy(weights @ mean).float()
            if len(fits) > 1 and losses.mean() >= fits[-2][2].mean():
                break
        return fits[one_standard_error(np.stack([losses for _, _, losses in fits]))] if len(fits) > 1 else fits[0]

    def _along_penalties(self, x: sp.csr_array, targets: np.ndarray, valid: Instances, valid_vectors: np.ndarray) -> _Fit:
        best: _Fit | None = None
        for penalty in PENALTIES if len(valid) else (UNTUNED_PENALTY,):
            part, weights = self._fitted(x, targets, penalty)
            logits = part(torch.from_numpy(part.features(valid.inputs))).double() + torch.from_numpy(valid_vectors @ weights.T)
            losses = nn.functional.cross_entropy(logits, torch.from_numpy(valid.targets), reduction="none").numpy()
            if best is not None and losses.mean() >= best[2].mean():
                break
            best = part, weights, losses
        assert best is not None
        return best

    def _design(self, sequences: Sequences) -> sp.csr_array:
        rows = self.bag.rows(sequences)
        length = (np.log1p(sequences.lengths) - self.mean) * self.scale
        factors = sp.csr_array(np.asarray(rows @ self.basis) * self.factor_scale)
        parts = [rows * self.bag_scale, factors, sp.csr_array(length[:, None])]
        return sp.csr_array(sp.hstack(parts, format="csr", dtype=np.float64))

    def _fitted(self, x: sp.csr_array, targets: np.ndarray, penalty: float) -> tuple[WidePart, np.ndarray]:
        classes = np.unique(targets)
        weights, bias = np.zeros((self.outputs, x.shape[1])), np.full(self.outputs, ABSENT)
        bias[classes] = 0.0
        if len(classes) > 1:
            found = LogisticRegression(C=penalty, tol=TOLERANCE, max_iter=ITERATIONS).fit(x, targets)
            chosen = classes[1:] if len(classes) == 2 else classes  # scikit-learn keeps one row for two classes
            weights[chosen], bias[chosen] = found.coef_, found.intercept_
        of_bag, of_factors, of_length, of_vectors = np.split(weights, np.cumsum([*self.basis.shape, 1]), axis=1)
        table = self.bag_scale * of_bag.T + self.factor_scale * (self.basis @ of_factors.T)
        own = np.concatenate([np.eye(self.outputs), of_length * self.scale], axis=1)
        return WidePart.of(self.bag, table, own, bias - of_length[:, 0] * self.mean * self.scale), of_vectors


class Recommender:
    """Reduced-rank ridge regression from the factors of a history to what its user takes: logits are its estimates, sharpened.

    In closed form (Mukherjee & Zhu 2011, section 2). A target is damped by its count to the power of -DAMPING, or what many take would
    decide alone which directions are kept, and the ridge would draw every user towards it.
    """

    def __init__(self, histories: Sequences, outputs: int, vocabulary_size: int, seed: int) -> None:
        self.bag, self.outputs = Bag.learned(histories, vocabulary_size), outputs
        self.basis = self.bag.basis(histories, RANK, seed)
        self.rank, self.ridge, self.sharpness = UNTUNED_RANK, UNTUNED_RIDGE, UNTUNED_SHARPNESS

    def fit(self, train: Instances, valid: Instances) -> WidePart:
        """Ridge and rank by MRR@10 and then the sharpness by log-loss on `valid`."""
        moments = self._moments(train)
        judged = valid.take(np.flatnonzero(valid.targets >= FIRST_ITEM))
        features = _features(self.bag, self.basis, judged.inputs)[:, :-1]
        ranks, best = sorted({min(rank, self.basis.shape[1]) for rank in RANKS}), -1.0
        for ridge in RIDGES if len(judged) else ():
            regression = _Regression(moments, ridge)
            for rank in ranks:
                products = InnerProducts(lambda rows: features[rows], *(torch.from_numpy(one).float() for one in regression.of_rank(rank)))
                quality = float(ranking_metrics(full_ranking(products, len(judged), judged.targets).ranks_all)["mrr@10"].mean())
                if quality > best:
                    best, self.rank, self.ridge = quality, rank, ridge
        weights, bias = _Regression(moments, self.ridge).of_rank(self.rank)
        if len(judged):
            self.sharpness = _sharpest(features @ weights.T + bias, judged.targets)
        weight = np.concatenate([weights * self.sharpness, np.zeros((self.outputs, 1))], axis=1)
        return WidePart.of(self.bag, self.basis, weight, bias * self.sharpness)

    def _moments(self, train: Instances) -> Moments:
        known = train.take(np.flatnonzero(train.targets >= FIRST_ITEM))
        x = _features(self.bag, self.basis, known.inputs)[:, :-1].astype(np.float64)
        taken = np.zeros((self.outputs, x.shape[1]))
        np.add.at(taken, known.targets, x)
        counts = np.bincount(known.targets, minlength=self.outputs)
        damped = np.maximum(counts, 1.0) ** -DAMPING
        mean, shares = x.mean(axis=0), counts / max(len(known), 1) * damped
        return Moments(x.T @ x - len(x) * np.outer(mean, mean), taken * damped[:, None] - len(x) * np.outer(shares, mean), mean, shares)


class _Regression:
    """Ridge regression of the targets taken on the factors, of any rank."""

    def __init__(self, moments: Moments, ridge: float) -> None:
        self.moments = moments
        self.root = np.linalg.cholesky(moments.factors + ridge * np.eye(len(moments.factors)))
        self.whole = solve_triangular(self.root, moments.taken.T, lower=True)  # of full rank, by directions in which a step costs alike
        self.directions = np.linalg.eigh(self.whole @ self.whole.T)[1]

    def of_rank(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """(weights [K, R], bias [K]) of the estimates' first `rank` directions."""
        kept = self.directions[:, -rank:]
        weights = solve_triangular(self.root, kept @ (kept.T @ self.whole), lower=True, trans="T").T
        return weights, self.moments.shares - weights @ self.moments.mean


def _sharpest(estimates: np.ndarray, targets: np.ndarray) -> float:
    """Of SHARPNESSES, that which times the estimates [B, K] makes logits of the least log-loss."""
    losses = []
    for sharpness in SHARPNESSES:
        logits = torch.from_numpy(estimates[:, FIRST_ITEM:] * sharpness)
        losses.append(float(nn.functional.cross_entropy(logits, torch.from_numpy(targets.astype(np.int64) - FIRST_ITEM))))
    return SHARPNESSES[int(np.argmin(losses))]


def one_standard_error(faults: np.ndarray) -> int:
    """The first row of `faults` [C, N] whose mean is no more than one standard error of the difference above the least mean."""
    best = faults[int(np.argmin(faults.mean(axis=1)))]
    excess = faults - best
    errors = excess.std(axis=1) / np.sqrt(excess.shape[1])
    return int(np.flatnonzero(excess.mean(axis=1) <= errors)[0])
