"""The floor: how long the machine must take, from work that cannot be avoided over rates measured in the same run.

    floor = max(FLOPs / matmul rate, bytes / memory bandwidth)

FLOPs are those of the matrix products alone (2mnk for [m, k] @ [k, n]; normalisation, softmax, dropout masks and element-wise
work count as free), on the true lengths of the histories, without padding. Width D, T blocks, a history of l tokens with UR:

    token, full block     2·D·3D (q, k, v) + 2·D·D (out) + 4·D·D (feed-forward of width D) = 12 D²
    attention, full block 4·l²·D  (scores and mixing, all heads together)
    last block, UR alone  2·D·2D a token for k, v;  2·D·D + 2·D·D + 4·D·D once;  4·l·D for the one query
    heads of CLUE         3 · 2·D·D (projector) + 2 · 2·D·P (predictor of hidden width P), a view
    next item             full blocks throughout, causal attention 2·l·(l+1)·D; 2·D·V a prediction, l − 2 a history of l tokens or 1

A CLUE step is two views, and its backward pass costs twice the forward: gradients of inputs and of weights.

Bytes are what must move at least once: float32 weights, which dense Adam reads with gradient and two moments and writes back with
both (7 passes over the table and all else, a step); the embedding rows gathered, and their gradients; and every activation that the
backward pass needs, written once and read once. A ranking must write its scores and read them once. The rate is the best of the
shapes measured, so the floor is low and the fraction of it that is reached is not flattered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

FLOAT = 4
SPECIAL = 4  # rows of the item table that are no items


@dataclass(frozen=True)
class Shape:
    """Width of the encoder, its blocks, and the predictor's hidden width (D / 4 by default)."""

    dim: int = 64
    blocks: int = 2
    predictor: int = 16


@dataclass(frozen=True)
class Lengths:
    """What the floor needs to know of the histories: how many, their tokens (UR included), and the sum of squared tokens."""

    users: int
    tokens: int
    squares: int

    @classmethod
    def of(cls, tokens: Sequence[int]) -> Self:
        """From the tokens of each history."""
        return cls(len(tokens), sum(tokens), sum(length * length for length in tokens))


@dataclass(frozen=True)
class Work:
    """FLOPs and bytes that cannot be avoided."""

    flops: float
    bytes: float

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """The floor in seconds."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)


def encoder_flops(lengths: Lengths, shape: Shape) -> float:
    """Forward pass up to the vectors at UR."""
    d, tokens = shape.dim, lengths.tokens
    full = 12 * d * d * tokens + 4 * d * lengths.squares
    last = 4 * d * d * tokens + 8 * d * d * lengths.users + 4 * d * tokens
    return float((shape.blocks - 1) * full + last)


def folded_away(lengths: Lengths, shape: Shape, heads: int) -> float:
    """FLOPs of `encoder_flops` that userclue's kernels do not do, as they fold the last block's one query into its weights.

    4·H·D a token for all heads' scores and mixing, and 4·D·D once, take the place of keys and values (4·D·D a token) and their use.
    """
    d = shape.dim
    return float(4 * d * (d + 1 - heads) * lengths.tokens - 4 * d * d * lengths.users)


def formed_once(lengths: Lengths, rows: int, max_len: int, shape: Shape) -> float:
    """FLOPs of `encoder_flops` that userclue's kernels do not do where nothing is learned.

    The first block's queries, keys and values (6·D·D a token) are formed once an item and once a position and added; not where that
    block is also the last.
    """
    return float(6 * shape.dim**2 * (lengths.tokens - min(rows, lengths.tokens) - max_len - 1)) if shape.blocks > 1 else 0.0


def head_flops(users: int, shape: Shape) -> float:
    """Forward pass of projector and predictor for one view of `users`."""
    return float(users * (6 * shape.dim**2 + 4 * shape.dim * shape.predictor))


def encoder_weights(rows: int, max_len: int, shape: Shape) -> int:
    """Number of the encoder's weights: item table of `rows`, positions, blocks, norms."""
    d = shape.dim
    block = 6 * d * d + 6 * d + 4 * d
    return (rows + max_len + 1) * d + shape.blocks * block + 2 * d


def clue_steps(lengths: Lengths, rows: int, max_len: int, shape: Shape, steps: int = 1) -> Work:
    """Steps of CLUE that together see these histories once: two views, forward, backward, and dense Adam at each step."""
    d, tokens = shape.dim, lengths.tokens
    flops = 3 * 2 * (encoder_flops(lengths, shape) + head_flops(lengths.users, shape))
    weights = encoder_weights(rows, max_len, shape) + 3 * d * d + 2 * d * shape.predictor
    # Kept for the backward pass, a token of a full block: input, its norm, q, k, v, the mixed values, the second norm, its output and
    # the hidden layer; of the last block: input, norm, k, v.
    kept = 2 * tokens * d * ((shape.blocks - 1) * 9 + 4)
    return Work(flops, FLOAT * (7.0 * weights * steps + 2 * kept + 2 * 2 * tokens * d))


def next_steps(lengths: Lengths, rows: int, max_len: int, shape: Shape, steps: int = 1) -> Work:
    """Steps of next-item training at every position that together see these histories once: causal, softmax over all items, tied."""
    d, tokens, items = shape.dim, lengths.tokens, rows - SPECIAL
    encoder = shape.blocks * (12 * d * d * tokens + 2 * d * (lengths.squares + tokens))
    predictions = tokens - 2 * lengths.users
    kept = tokens * d * shape.blocks * 9
    return _item_steps(float(encoder + 2 * d * items * predictions), kept, lengths, rows, max_len, shape, steps)


def last_steps(lengths: Lengths, rows: int, max_len: int, shape: Shape, steps: int = 1) -> Work:
    """The same with one prediction a history, from the vector at UR, over all rows of the table."""
    forward = encoder_flops(lengths, shape) + 2.0 * shape.dim * rows * lengths.users
    kept = lengths.tokens * shape.dim * ((shape.blocks - 1) * 9 + 4)
    return _item_steps(forward, kept, lengths, rows, max_len, shape, steps)


def _item_steps(forward: float, kept: int, lengths: Lengths, rows: int, max_len: int, shape: Shape, steps: int) -> Work:
    """Logits count as moving nothing: a chunk of them can stay in the cache."""
    moved = 7.0 * encoder_weights(rows, max_len, shape) * steps + 2 * kept + 2 * lengths.tokens * shape.dim
    return Work(3 * forward, FLOAT * moved)


def embedding_pass(lengths: Lengths, rows: int, max_len: int, shape: Shape) -> Work:
    """Vectors of all users: body and positions read once, rows gathered, vectors written."""
    body = encoder_weights(0, max_len, shape)
    return Work(encoder_flops(lengths, shape), FLOAT * float(body + min(rows, lengths.tokens) * shape.dim + lengths.users * shape.dim))


def full_ranking(users: int, items: int, shape: Shape) -> Work:
    """Scores of all items for all users from their vectors, each score written once and read once."""
    return Work(2.0 * users * items * shape.dim, FLOAT * (2.0 * users * items + (users + items) * shape.dim))
