"""One history, many ways in: whatever route a user takes, the model reads the same items and gives the same vector."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from userclue.config import EncoderConfig
from userclue.data.inputs import of_lists, open_histories
from userclue.data.store import Sequences
from userclue.data.vocabulary import UNK, Vocabulary
from userclue.encoder import UserEncoder
from userclue.errors import DataError

# Users by id; items of each in order of time. Item 99 is unknown to the model.
LOG = {"u1": [3, 1, 2], "u2": [7], "u3": [5, 99, 5, 6, 99, 1]}
ROWS = [(user, item, 1_700_000_000 + place) for user, items in LOG.items() for place, item in enumerate(items)]
LISTS = list(LOG.values())


@pytest.fixture(scope="module")
def vocabulary():
    """Numbered otherwise than any of the data sets below."""
    return Vocabulary.from_ids([8, 7, 6, 5, 4, 3, 2, 1])


@pytest.fixture(scope="module")
def encoder(vocabulary):
    made = UserEncoder.new(EncoderConfig.of({"dim": 8, "heads": 2, "max_len": 5}), vocabulary, torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.embedding.items.weight.normal_(generator=torch.Generator().manual_seed(1))
    return made


def table(rows=ROWS, item=int):
    users, items, times = zip(*rows, strict=True)
    return pa.table({"user_id": users, "item_id": [item(one) for one in items], "timestamp": times})


def of_folder(tmp_path, make):
    return make(table()).path


def of_files(tmp_path, make):
    paths = [tmp_path / f"part{i}.parquet" for i in range(2)]
    for i, path in enumerate(paths):
        pq.write_table(table(ROWS[i::2]), path)
    return paths


def of_csv(tmp_path, make):
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in ROWS))
    return str(path)


ROUTES = {
    "lists": lambda tmp_path, make: LISTS,
    "texts": lambda tmp_path, make: [[str(item) for item in items] for items in LISTS],
    "mixed": lambda tmp_path, make: [tuple(str(item) if place else item for place, item in enumerate(items)) for items in LISTS],
    "arrays": lambda tmp_path, make: [np.array(items) for items in LISTS],
    "arrow": lambda tmp_path, make: table(),
    "arrow of text": lambda tmp_path, make: table(item=str),
    "shuffled": lambda tmp_path, make: table(ROWS[::-1]),
    "polars": lambda tmp_path, make: pl.from_arrow(table(item=str)),
    "pandas": lambda tmp_path, make: pd.DataFrame(ROWS, columns=["user_id", "item_id", "timestamp"]),
    "dataset": lambda tmp_path, make: make(table()),
    "folder": of_folder,
    "files": of_files,
    "csv": of_csv,
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_gives_the_same_vectors(tmp_path, make, encoder, vocabulary, route):
    expected = encoder.vectors(Sequences.from_lists([vocabulary.indices(items) for items in LISTS]))
    vectors = encoder.encode(ROUTES[route](tmp_path, make))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_reads_the_same_items_and_counts_the_unknown(tmp_path, make, vocabulary, route):
    with open_histories(ROUTES[route](tmp_path, make), vocabulary) as opened:
        for size in (1, 2, 100):
            chunks = list(opened.chunks(size))
            assert [len(sequences) for sequences, _ in chunks] == {1: [1, 1, 1], 2: [2, 1], 100: [3]}[size]
            read = [sequences[place].tolist() for sequences, _ in chunks for place in range(len(sequences))]
            assert read == [vocabulary.indices(items).tolist() for items in LISTS]
            assert np.concatenate([unknown for _, unknown in chunks]).tolist() == [0, 0, 2]
        whole = opened.whole()
        assert [whole[place].tolist() for place in range(3)] == read
        users = opened.users
        if route in ("lists", "texts", "mixed", "arrays"):
            assert users is None
        else:
            assert users.to_pylist() == list(LOG)


def test_a_dataset_of_the_same_vocabulary_is_not_copied(make):
    dataset = make(table())
    with open_histories(dataset, dataset.vocabulary) as opened:
        assert opened.lookup is None
        assert opened.whole().items is dataset.items


def test_columns_may_be_named(encoder, vocabulary):
    frame = table().rename_columns(["who", "what", "when"])
    vectors = encoder.encode(frame, user_col="who", item_col="what", time_col="when")
    np.testing.assert_allclose(vectors, encoder.encode(LISTS), atol=1e-5, rtol=0)


def test_nothing_is_left_behind(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    encoder.encode(table())
    with pytest.raises(DataError):
        encoder.encode(table().drop_columns("item_id"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [0, 2])
def test_an_empty_history_is_refused_by_its_number(encoder, place):
    histories = [[3], [1]]
    histories.insert(place, [])
    with pytest.raises(DataError, match=rf"histories\[{place}\] is empty; a user without an event has no vector"):
        encoder.encode(histories)


def test_no_users_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 8)


def test_unknown_items_alone_still_give_a_vector(encoder, vocabulary):
    assert of_lists([["nothing", "known"]], vocabulary).sequences[0].tolist() == [UNK, UNK]
    assert np.isfinite(encoder.encode([["nothing", "known"]])).all()


def test_floats_are_refused(encoder):
    with pytest.raises(DataError, match=r"item ids are floats, for example 3\.0; cast them to integers or strings"):
        encoder.encode([[3.0, 1.0]])
