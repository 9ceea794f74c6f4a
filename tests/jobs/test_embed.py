"""Vectors for everyone: the id as it came, the same vector wherever a history stands, and what the model does not know said aloud."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from userclue import encoding
from userclue.artifact import Artifact
from userclue.data.inputs import of_dataset
from userclue.data.prepare import prepare
from userclue.data.store import Dataset, Sequences
from userclue.encoder import UserEncoder
from userclue.errors import ArtifactError, DataError, UsageError
from userclue.jobs.embed import embed

Log = Callable[..., pa.Table]


def vectors_in(path: Path) -> dict[Any, np.ndarray]:
    table = pq.read_table(path)
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    return dict(zip(table["user_id"].to_pylist(), flat.reshape(table.num_rows, -1), strict=True))


def log_of(users: pa.Array, items: list[str]) -> pa.Table:
    return pa.table({"user_id": users, "item_id": items, "timestamp": list(range(len(items)))})


def test_the_file_has_the_promised_form(model: Path, shop: Dataset, tmp_path: Path) -> None:
    result = embed(model, shop, tmp_path / "users.parquet")
    assert (result.users, result.dim, result.unknown_items, result.warnings) == (90, 16, 0, [])
    assert result.users_per_second > 0
    table = pq.read_table(tmp_path / "users.parquet")
    assert table.schema.field("user_id").type == shop.users.type == pa.int64()
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    assert table["user_id"].to_pylist() == shop.users.to_pylist()
    note = json.loads(table.schema.metadata[b"userclue"])
    assert note["model"] == Artifact.open(model).hash
    assert note["dim"] == 16
    np.testing.assert_array_equal(
        np.stack(list(vectors_in(tmp_path / "users.parquet").values())), UserEncoder.from_pretrained(model).encode(shop)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["users.parquet"]


def test_vectors_are_written_without_dictionaries(model: Path, shop: Dataset, tmp_path: Path) -> None:
    embed(model, shop, tmp_path / "users.parquet")
    group = pq.ParquetFile(tmp_path / "users.parquet").metadata.row_group(0)
    assert not any(group.column(place).has_dictionary_page for place in range(group.num_columns))


def test_other_frame_libraries_read_it(model: Path, shop: Dataset, tmp_path: Path) -> None:
    embed(model, shop, tmp_path / "users.parquet")
    expected = vectors_in(tmp_path / "users.parquet")
    polars = pl.read_parquet(tmp_path / "users.parquet")
    assert polars.schema["embedding"] == pl.Array(pl.Float32, 16)
    np.testing.assert_array_equal(polars["embedding"].to_numpy(), np.stack(list(expected.values())))
    pandas = pd.read_parquet(tmp_path / "users.parquet")
    np.testing.assert_array_equal(np.stack(pandas["embedding"].to_list()), np.stack(list(expected.values())))


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([-5, 7, 2**53 + 1], pa.int64()),
        pa.array([1, 2**63, 2**64 - 1], pa.uint64()),
        pa.array(["007", "../../etc/passwd", "é (NFD é) =1+1"], pa.string()),
    ],
    ids=["int64", "uint64", "string"],
)
def test_user_ids_come_back_as_they_were(model: Path, tmp_path: Path, ids: pa.Array) -> None:
    embed(model, log_of(ids, ["a0", "b1", "c2"]), tmp_path / "users.parquet")
    table = pq.read_table(tmp_path / "users.parquet")
    assert table["user_id"].type == ids.type
    assert sorted(table["user_id"].to_pylist()) == sorted(ids.to_pylist())


def test_users_and_histories_never_seen_in_training_have_vectors(model: Path, make_log: Log, tmp_path: Path) -> None:
    log = make_log(users=20, seed=9)
    log = log.set_column(0, "user_id", pa.array([f"new {user}" for user in log["user_id"].to_pylist()]))
    result = embed(model, log, tmp_path / "users.parquet")
    found = np.stack(list(vectors_in(tmp_path / "users.parquet").values()))
    assert result.users == len(found) == 20
    assert np.isfinite(found).all()
    assert len(np.unique(found.round(4), axis=0)) > 15


def test_a_history_has_one_vector_whatever_file_or_batch_it_is_in(
    model: Path, shop: Dataset, make_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log()
    embed(model, shop, tmp_path / "whole.parquet")
    expected = vectors_in(tmp_path / "whole.parquet")
    pq.write_table(log.take(pa.array(np.random.default_rng(0).permutation(log.num_rows))), tmp_path / "events.parquet")
    embed(model, tmp_path / "events.parquet", tmp_path / "shuffled.parquet")
    alone = log.filter(pa.compute.equal(log["user_id"], 17))
    embed(model, alone, tmp_path / "alone.parquet")
    monkeypatch.setattr(encoding, "ENCODE_CHUNK", 7)
    embed(model, shop, tmp_path / "pieces.parquet")
    for name in ("shuffled", "alone", "pieces"):
        found = vectors_in(tmp_path / f"{name}.parquet")
        assert len(found) == (1 if name == "alone" else 90)
        for user, vector in found.items():
            np.testing.assert_allclose(vector, expected[user], atol=1e-5)
    listed = UserEncoder.from_pretrained(model).encode([alone["item_id"].to_pylist()])
    np.testing.assert_allclose(listed[0], expected[17], atol=1e-5)


def test_unknown_items_are_counted_and_users_of_nothing_else_are_warned_of(model: Path, tmp_path: Path) -> None:
    users = pa.array([1, 1, 1, 2, 2, 3])
    result = embed(model, log_of(users, ["a0", "new", "a1", "new", "newer", "c3"]), tmp_path / "users.parquet")
    assert (result.users, result.unknown_items) == (3, 3)
    assert len(result.warnings) == 1
    assert "1 of 3 users have only items that the model does not know" in result.warnings[0]


def test_one_event_is_enough_and_none_is_an_error(model: Path, tmp_path: Path) -> None:
    assert embed(model, log_of(pa.array([8]), ["a0"]), tmp_path / "one.parquet").users == 1
    with pytest.raises(DataError):
        embed(model, log_of(pa.array([], pa.int64()), []), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="lists of items name no users"):
        embed(model, [["a0"], ["a1"]], tmp_path / "none.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["one.parquet"]


def test_columns_of_other_names(model: Path, shop: Dataset, make_log: Log, tmp_path: Path) -> None:
    log = make_log().rename_columns(["who", "what", "when"])
    embed(model, log, tmp_path / "users.parquet", user_col="who", item_col="what", time_col="when")
    np.testing.assert_array_equal(
        np.stack(list(vectors_in(tmp_path / "users.parquet").values())), UserEncoder.from_pretrained(model).encode(shop)
    )


def test_an_output_is_not_overwritten_unasked(model: Path, shop: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "users.parquet"
    out.write_text("mine")
    with pytest.raises(UsageError, match=r"users.parquet: already exists; choose another output or add --overwrite"):
        embed(model, shop, out)
    assert out.read_text() == "mine"
    embed(model, shop, out, overwrite=True)
    assert len(vectors_in(out)) == 90
    with pytest.raises(UsageError, match="is a folder; give the name of a file"):
        embed(model, shop, tmp_path, overwrite=True)


def test_what_is_no_model_or_dataset_is_refused(model: Path, shop: Dataset, make_log: Log, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is a userclue dataset, not a model"):
        embed(shop.path, shop, tmp_path / "users.parquet")
    with pytest.raises(ArtifactError, match="is a userclue model, not a dataset"):
        embed(model, model, tmp_path / "users.parquet")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in model.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    content = bytearray((damaged / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (damaged / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match="its SHA-256 differs"):
        embed(damaged, shop, tmp_path / "users.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_a_grown_catalogue_leaves_old_vectors_unchanged(model: Path, shop: Dataset, make_log: Log, tmp_path: Path) -> None:
    """Users who bought nothing new keep their vectors when the log brings new items and another numbering."""
    log = make_log()
    news = pa.table({"user_id": [1000] * 200, "item_id": ["fad"] * 200, "timestamp": list(range(1_800_000_000, 1_800_000_200))})
    data = prepare(pa.concat_tables([log, news]), tmp_path / "data", threads=1)
    assert not np.array_equal(data.items[: shop.n_events], shop.items)
    embed(model, shop, tmp_path / "before.parquet")
    assert embed(model, data, tmp_path / "after.parquet").unknown_items == 200
    before, after = vectors_in(tmp_path / "before.parquet"), vectors_in(tmp_path / "after.parquet")
    for user, vector in before.items():
        np.testing.assert_allclose(after[user], vector, atol=1e-5)


def test_the_vectors_are_the_same_to_the_bit_however_many_workers(
    model: Path, shop: Dataset, make_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "ENCODE_CHUNK", 7)
    log = make_log(users=60, seed=4)  # of another numbering
    pq.write_table(log.set_column(1, "item_id", pa.compute.replace_substring(log["item_id"], "b", "new")), tmp_path / "events.parquet")
    for source in (shop, tmp_path / "events.parquet"):
        alone, shared = (embed(model, source, tmp_path / f"{n}.parquet", workers=n, overwrite=True) for n in (1, 3))
        assert (alone.workers, shared.workers) == (1, 3)
        assert shared.start_seconds > 0
        assert (shared.users, shared.unknown_items, shared.warnings) == (alone.users, alone.unknown_items, alone.warnings)
        assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "3.parquet").read_bytes()
    assert alone.unknown_items > 0
    encoder = UserEncoder.from_pretrained(model)
    lists = [["a0", "a1"], ["b1", "zzz"]] * 20
    np.testing.assert_array_equal(encoder.encode(lists, workers=2), encoder.encode(lists))
    np.testing.assert_array_equal(encoder.encode(shop, workers=2), encoder.encode(shop))


def test_how_many_workers_pay() -> None:
    assert encoding.worker_count(None, 90, "cpu", threads=16) == 1
    assert encoding.worker_count(None, 10**7, "cpu", threads=2) == 2
    assert encoding.worker_count(None, 250_000, "cpu", threads=16) == 2
    assert encoding.worker_count(8, 10**7, "cpu", threads=2) == 8
    assert encoding.worker_count(8, 40_000, "cpu") == 3  # no more than pieces
    assert encoding.worker_count(None, 10**7, "cuda", threads=16) == 1
    with pytest.raises(UsageError, match="workers: 2 were asked for, but on cuda one process does all the work"):
        encoding.worker_count(2, 10**7, "cuda")


def test_a_model_replaced_between_two_openings_is_noticed(model: Path, shop: Dataset) -> None:
    opened = of_dataset(shop, Artifact.open(model).vocabulary)
    with pytest.raises(ArtifactError, match="was replaced by another model"), encoding.encoding_workers(model, "0" * 64, opened, 1):
        raise AssertionError


class Stop(Exception):
    pass


@pytest.fixture
def stopped(model: Path, shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of a run that kept 28 users in two parts and then died; pieces are of seven users."""
    monkeypatch.setattr(encoding, "ENCODE_CHUNK", 7)
    whole, out = UserEncoder.vectors, tmp_path / "users.parquet"
    pieces = 0

    def vectors(self: UserEncoder, sequences: Sequences) -> np.ndarray:
        nonlocal pieces
        pieces += 1
        if pieces > 5:
            raise Stop
        return whole(self, sequences)

    with monkeypatch.context() as patched:
        patched.setattr(UserEncoder, "vectors", vectors)
        with pytest.raises(Stop):
            embed(model, shop, out, checkpoint_every=14)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "part-000000.npy", "part-000001.npy", "state.json", "users.parquet.checkpoint",
    ]  # fmt: skip
    return out


@pytest.mark.parametrize("every", [14, None])
def test_a_stopped_run_goes_on_to_the_same_bytes(model: Path, shop: Dataset, tmp_path: Path, stopped: Path, every: int | None) -> None:
    result = embed(model, shop, stopped, checkpoint_every=every)
    assert (result.users, result.kept, result.warnings) == (90, 28, [])
    assert [path.name for path in tmp_path.iterdir()] == ["users.parquet"]
    embed(model, shop, tmp_path / "whole.parquet")
    assert stopped.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_damaged_part_is_encoded_again(model: Path, shop: Dataset, tmp_path: Path, stopped: Path) -> None:
    path = tmp_path / "users.parquet.checkpoint" / "part-000001.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    result = embed(model, shop, stopped, checkpoint_every=14, workers=2)
    assert result.kept == 14
    assert "part-000001.npy: is damaged; its users and those after it are encoded again" in result.warnings[0]
    embed(model, shop, tmp_path / "whole.parquet")
    assert stopped.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_parts_of_other_data_are_not_mixed_in(model: Path, shop: Dataset, make_log: Log, tmp_path: Path, stopped: Path) -> None:
    with pytest.raises(UsageError, match="keeps vectors of another model or other data; choose another output"):
        embed(model, make_log(users=50, seed=3), stopped, checkpoint_every=14)
    result = embed(model, make_log(users=50, seed=3), stopped, checkpoint_every=14, overwrite=True)
    assert (result.users, result.kept) == (50, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["users.parquet"]


def test_wrong_numbers_are_refused(model: Path, shop: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="workers: Input should be greater than or equal to 1"):
        embed(model, shop, tmp_path / "users.parquet", workers=0)
    with pytest.raises(UsageError, match="checkpoint_every: Input should be greater than or equal to 1"):
        embed(model, shop, tmp_path / "users.parquet", checkpoint_every=0)
