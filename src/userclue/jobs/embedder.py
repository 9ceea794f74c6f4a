"""A scikit-learn transformer over a frame of events: fit pre-trains, transform gives one vector a user."""

import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from userclue.data.prepare import prepare
from userclue.encoder import UserEncoder
from userclue.jobs.pretrain import pretrain


class UserEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """From a frame of events (Polars, pandas, Arrow) or event files to user vectors, float32 [n_users, dim], users in order of id.

    `settings` are those of `pretrain` (dim, epochs, dropout, seed, ...). After `fit`, `encoder_` is the UserEncoder; after
    `transform`, `users_` holds the ids of the rows.
    """

    def __init__(
        self,
        user_col: str = "user_id",
        item_col: str = "item_id",
        time_col: str | None = "timestamp",
        seed: int = 0,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.user_col = user_col
        self.item_col = item_col
        self.time_col = time_col
        self.seed = seed
        self.settings = settings

    def fit(self, X: Any, y: Any = None) -> Self:
        """Pre-train on the events `X`; labels are not used. DataError for unusable events, UsageError for unknown settings."""
        del y
        with tempfile.TemporaryDirectory(prefix="userclue-") as folder:
            data = prepare(X, Path(folder) / "data", **self._columns())
            self.encoder_: UserEncoder = pretrain(data, **{"seed": self.seed, **(self.settings or {})})
        self.n_features_out_ = self.encoder_.config.dim
        return self

    def transform(self, X: Any) -> np.ndarray:
        """One vector a user of the events `X`, who need not have been in `fit`."""
        check_is_fitted(self, "encoder_")
        with tempfile.TemporaryDirectory(prefix="userclue-") as folder:
            data = prepare(X, Path(folder) / "data", **self._columns())
            self.users_ = data.users.to_numpy()
            return self.encoder_.encode(data)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """One name a column: clue0, clue1, and so on."""
        del input_features
        check_is_fitted(self, "encoder_")
        return np.array([f"clue{i}" for i in range(self.n_features_out_)], dtype=object)

    def _columns(self) -> dict[str, Any]:
        return {"user_col": self.user_col, "item_col": self.item_col, "time_col": self.time_col}
