"""UserEmbedder beside scikit-learn's own transformers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from userclue.errors import DataError, UsageError
from userclue.jobs.embedder import UserEmbedder

Log = Callable[..., pa.Table]


@pytest.fixture(scope="module")
def settings(small: dict[str, Any]) -> dict[str, Any]:
    return {**small, "epochs": 2}


def test_fit_and_transform(make_log: Log, settings: dict[str, Any]) -> None:
    frame = make_log().to_pandas()
    embedder = UserEmbedder(settings=settings)
    vectors = embedder.fit_transform(frame)
    assert vectors.shape == (90, 16)
    assert vectors.dtype == np.float32
    assert embedder.users_.tolist() == list(range(90))
    assert embedder.get_feature_names_out().tolist() == [f"clue{place}" for place in range(16)]
    some = embedder.transform(frame[frame["user_id"] >= 80])
    assert embedder.users_.tolist() == list(range(80, 90))
    np.testing.assert_allclose(some, vectors[80:], atol=1e-5)


def test_same_seed_same_vectors(make_log: Log, settings: dict[str, Any]) -> None:
    log = make_log()
    one, again, other = (UserEmbedder(seed=seed, settings=settings).fit_transform(log) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_it_is_cloned_and_set_like_any_estimator(settings: dict[str, Any]) -> None:
    embedder = UserEmbedder(user_col="who", time_col=None, seed=7, settings=settings)
    copy = clone(embedder)
    assert copy.get_params() == embedder.get_params() == {
        "user_col": "who", "item_col": "item_id", "time_col": None, "seed": 7, "settings": settings,
    }  # fmt: skip
    assert copy.set_params(seed=8).seed == 8
    with pytest.raises(NotFittedError):
        copy.transform(pd.DataFrame())
    with pytest.raises(NotFittedError):
        copy.get_feature_names_out()
    assert "UserEmbedder" in repr(embedder)


def test_it_stands_in_a_pipeline(make_log: Log, settings: dict[str, Any]) -> None:
    frame = make_log().to_pandas()
    labels = [user % 3 for user in range(90)]  # rows come in the order of the ids
    pipeline = Pipeline([("vectors", UserEmbedder(settings=settings)), ("classify", LogisticRegression(max_iter=500))])
    pipeline.fit(frame, labels)
    assert pipeline.predict(frame).shape == (90,)
    assert pipeline.score(frame, labels) > 0.5


def test_other_columns_and_no_times(make_log: Log, settings: dict[str, Any]) -> None:
    log = make_log().select(["user_id", "item_id"]).rename_columns(["who", "what"])
    embedder = UserEmbedder(user_col="who", item_col="what", time_col=None, settings=settings)
    assert embedder.fit_transform(log).shape == (90, 16)


def test_wrong_input_is_refused(make_log: Log) -> None:
    with pytest.raises(DataError, match='no column "user_id"'):
        UserEmbedder().fit(pd.DataFrame({"a": [1], "b": [2]}))
    with pytest.raises(UsageError, match="unknown setting epoch; did you mean epochs"):
        UserEmbedder(settings={"epoch": 1}).fit(make_log())
