"""Scores made up from ids alone, the same in every environment, so that evaluators can be compared on equal input."""

import numpy as np

PRIME = 4093  # above every item id of MovieLens-1M


def made_up_scores(users: np.ndarray, items: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float32 [users, items] without ties; the target lands among the first 25.

    users, targets: int [B]; items: int [V], every one below PRIME. Each row permutes 0 … PRIME - 1 by a line modulo a prime.
    """
    slope, shift = 1 + users * 7919 % (PRIME - 1), users * 104_729 % PRIME
    scores = ((slope[:, None] * items[None, :] + shift[:, None]) % PRIME).astype(np.float32)
    scores[items[None, :] == targets[:, None]] = PRIME - 0.5 - users % 25
    return scores
