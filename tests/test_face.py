"""The Python face: what `import userclue` offers, that it loads nothing heavy, and that the documented snippet runs."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import userclue as uc

NAMES = [
    "Dataset", "UserEmbedder", "UserEncoder", "audit", "build_report", "embed", "evaluate", "finetune", "load_builtin", "load_fitted",
    "prepare", "pretrain",
]  # fmt: skip


def test_the_names_of_the_face() -> None:
    assert list(uc.__all__) == NAMES
    assert {"__version__", *NAMES} <= set(dir(uc))
    assert isinstance(uc.__version__, str)
    with pytest.raises(AttributeError, match="module 'userclue' has no attribute 'pretrian'"):
        uc.pretrian  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, userclue\n"
        "heavy = {'torch', 'numpy', 'duckdb', 'pyarrow', 'sklearn', 'scipy', 'matplotlib', 'typer'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "userclue.prepare, userclue.audit, userclue.Dataset, userclue.load_builtin\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_stay_what_they_are_when_every_module_is_imported() -> None:
    """A module of the same name as a function would replace it on the package."""
    for module in pkgutil.walk_packages(uc.__path__, "userclue."):
        importlib.import_module(module.name)
    for name in NAMES:
        value = getattr(uc, name)
        assert callable(value), name
        assert value.__name__ == name
        assert value.__module__.startswith("userclue.")
        assert value.__doc__, name


def test_the_snippet_of_the_documentation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(user, f"{'ab'[user % 2]}{rng.integers(0, 5)}", 1_700_000_000 + step) for user in range(60) for step in range(6)]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame = pd.DataFrame({"user_id": range(60), "label": ["ab"[user % 2] for user in range(60)]})
    small = {"dim": 8, "blocks": 1, "heads": 2, "epochs": 2}

    data = uc.prepare(events, tmp_path / "data" / "shop")
    encoder = uc.pretrain(data, objective="clue", backbone="transformer", seed=0, **small)
    encoder.save_pretrained(tmp_path / "models" / "shop")

    encoder = uc.UserEncoder.from_pretrained(tmp_path / "models" / "shop")
    histories = [["a0", "a1"], ["b2", "b3", "b0"]]
    vectors = encoder.encode(histories)
    assert vectors.shape == (2, 8)
    assert vectors.dtype == np.float32
    assert encoder.encode(events).shape == encoder.encode(data).shape == (60, 8)

    model = uc.finetune(encoder, data, task="profiling", labels=frame, epochs=5, lr=0.02)
    assert model.predict(histories).tolist() == ["a", "b"]
    assert model.predict_proba(histories).shape == (2, 2)
    model = uc.finetune(encoder, data, task="sequential", epochs=2)
    ids, scores = model.recommend(histories, k=3, filter_seen=True)
    assert [len(found) for found in ids] == [3, 3]
    assert scores.shape == (2, 3)

    model.save_pretrained(tmp_path / "fitted")
    assert uc.load_fitted(tmp_path / "fitted").recommend(histories, k=3)[0] == ids
    assert uc.evaluate(uc.load_fitted(tmp_path / "fitted"), data)["metrics"] == model.facts["metrics"]
    assert uc.embed(tmp_path / "models" / "shop", data, tmp_path / "users.parquet").users == 60
    assert uc.Dataset.open(tmp_path / "data" / "shop").n_users == 60
    assert uc.audit(events)["users"] == 60
    uc.build_report([tmp_path / "models" / "shop"], tmp_path / "report.html")


def test_the_built_in_data() -> None:
    builtin = uc.load_builtin()
    assert isinstance(builtin.events, pa.Table)
    assert builtin.labels.num_rows == 2349
