"""Public data sets, read from the files their publishers give out into the tables that `prepare` and `finetune --labels` read.

Each reader takes the folder that holds the files. Histories that are known by their order alone have no column `timestamp`: their
rows stand oldest first. Nothing is downloaded, and nothing read here is part of the package.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

ML_1M_AGES = {"1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55", "56": "56 and over"}
ML_100K_GENRES_FROM = 5  # first genre's column in u.item
ATUS_LABELS = {
    "sex": "sex",
    "marital": "marital",
    "partner": "partner_hh",
    "child": "hh_child",
    "labour": "labor_status",
    "education": "edu",
}
HOUSEHOLD_LABELS = {"age": "age", "income": "income", "marital": "marital_status", "kids": "kids_count"}


@dataclass(frozen=True)
class Tables:
    """What a data set becomes: `events`, perhaps `items`, labels as name to {user: label}, and targets in another domain."""

    events: pa.Table
    items: pa.Table | None = None
    labels: dict[str, dict[Any, str]] = field(default_factory=dict)
    targets: pa.Table | None = None


@dataclass(frozen=True)
class PublicData:
    """A data set: the files it needs in one folder, how they are read, and what a reader of results must know of them."""

    files: tuple[str, ...]
    read: Callable[[Path], Tables]
    about: str


def ml_1m(data: Path) -> Tables:
    """MovieLens-1M: order without times; sequences.tsv has the movie ids of movies.dat (all 3,416 are found there)."""
    histories = ((int(user), map(int, items.split())) for user, items in _lines(data / "sequences.tsv", "\t"))
    movies = {int(movie): genres.split("|") for movie, _, genres in _lines(data / "movies.dat", "::", "latin-1")}
    users = list(_lines(data / "users.dat", "::"))
    labels = {
        "gender": {int(row[0]): row[1] for row in users},
        "age": {int(row[0]): ML_1M_AGES[row[2]] for row in users},
        "occupation": {int(row[0]): row[3] for row in users},
    }
    return Tables(_log(histories), _described(movies, "genre"), labels)


def ml_1m_without(data: Path, genre: str) -> Tables:
    """Cold start inside MovieLens-1M: histories of the films outside a genre, targets the films in it."""
    whole = ml_1m(data)
    assert whole.items is not None
    inside = {movie for movie, genres in zip(*whole.items.to_pydict().values(), strict=True) if genre in genres}
    target = pa.array([movie in inside for movie in whole.events["item_id"].to_pylist()])
    return Tables(whole.events.filter(pc.invert(target)), whole.items, whole.labels, whole.events.filter(target))


def ml_100k(data: Path) -> Tables:
    """MovieLens-100k: u.data with times in seconds, u.user, u.item."""
    rows = [tuple(map(int, row)) for row in _lines(data / "u.data", "\t")]
    times = pa.array([row[3] * 1000 for row in rows], pa.timestamp("ms"))
    events = pa.table({"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows], "timestamp": times})
    genres = [name for name, _ in _lines(data / "u.genre", "|")]
    movies = {}
    for row in _lines(data / "u.item", "|", "latin-1"):
        flags = row[ML_100K_GENRES_FROM:]
        movies[int(row[0])] = [name for name, flag in zip(genres, flags, strict=True) if flag == "1"]
    users = list(_lines(data / "u.user", "|"))
    labels = {
        "gender": {int(row[0]): row[2] for row in users},
        "age": {int(row[0]): f"{row[1][:-1] or '0'}0s" for row in users},
        "occupation": {int(row[0]): row[3] for row in users},
    }
    return Tables(events, _described(movies, "genre"), labels)


def ml_25m(data: Path) -> Tables:
    """MovieLens-25M (or 20M): ratings.csv with userId, movieId, rating, timestamp in seconds; every rating is an event."""
    kept = pa.csv.ConvertOptions(include_columns=["userId", "movieId", "timestamp"])
    table = pa.csv.read_csv(data / "ratings.csv", convert_options=kept)
    times = pc.cast(pc.multiply(table["timestamp"], 1000), pa.timestamp("ms"))
    return Tables(pa.table({"user_id": table["userId"], "item_id": table["movieId"], "timestamp": times}))


def s3rec(data: Path, name: str) -> Tables:
    """One data set of S3-Rec: a line a user (user, then items in order), item attributes as numbers."""
    histories = ((int(row[0]), map(int, row[1:])) for row in _lines(data / f"{name}.txt", None))
    found = json.loads((data / f"{name}_item2attributes.json").read_text(encoding="utf-8"))
    attributes = {int(item): [str(value) for value in dict.fromkeys(values)] for item, values in found.items()}
    return Tables(_log(histories), _described(attributes, "attribute"))


def pakdd2015(data: Path) -> Tables:
    """PAKDD 2015 shop sessions: every product A/B/C/D becomes four events, one a level, at the session's start.

    The unlabelled sessions are in the events too: pre-training may read them.
    """
    users, items, times = [], [], []
    for name in ("sessions.csv", "unlabelled_sessions.csv"):
        for user, start, _, paths in _lines(data / name, ","):
            tokens = [level for path in paths.split(";") for level in path.strip("/").split("/")]
            users += [user] * len(tokens)
            items += tokens
            times += [datetime.fromisoformat(start)] * len(tokens)
    events = pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(times, pa.timestamp("ms"))})
    levels = {item: [item[0]] for item in dict.fromkeys(items)}
    return Tables(events, _described(levels, "level"), {"gender": dict(_lines(data / "labels.csv", ","))})


def atus(data: Path) -> Tables:
    """American Time Use Survey: a person's activities of one day.

    The diary's order is lost in the source. Here activities stand by minutes, the longest last, so that a model that keeps
    the most recent n keeps the longest. Codes of child care and work partly name the labels `child` and `labour`.
    """
    histories = []
    for user, day in _lines(data / "activities.tsv", "\t"):
        pairs = [(int(minutes), code) for code, minutes in (pair.split(":") for pair in day.split())]
        histories.append((int(user), [code for _, code in sorted(pairs)]))
    people = _rows(data / "profile.csv")
    labels = {name: {int(row["tucaseid"]): row[column] for row in people if row[column]} for name, column in ATUS_LABELS.items()}
    labels["age"] = {int(row["tucaseid"]): f"{row['age'][:-1] or '0'}0s" for row in people}
    return Tables(_log(histories), labels=labels)


def completejourney(data: Path) -> Tables:
    """The Complete Journey: single grocery purchases with times, and what 801 of the households told of themselves."""
    purchases = _rows(data / "transactions_sample.csv")
    times = [datetime.fromisoformat(row["transaction_timestamp"]) for row in purchases]
    events = pa.table(
        {
            "user_id": [int(row["household_id"]) for row in purchases],
            "item_id": [int(row["product_id"]) for row in purchases],
            "timestamp": pa.array(times, pa.timestamp("ms")),
        }
    )
    people = _rows(data / "demographics.csv")
    labels = {
        name: {int(row["household_id"]): row[column] for row in people if row[column] not in ("", "NA")}
        for name, column in HOUSEHOLD_LABELS.items()
    }
    return Tables(events, labels=labels)


def two_domains(data: Path, source: str, target: str) -> Tables:
    """A source and a target file with one line a user (user, TAB, items); users in the target file alone stay in it."""
    logs = [_log((user, items.split()) for user, items in _lines(data / name, "\t")) for name in (source, target)]
    return Tables(logs[0], targets=logs[1])


ML_1M_FILES = ("sequences.tsv", "users.dat", "movies.dat")
S3REC_FILES = ("{0}.txt", "{0}_item2attributes.json")
PUBLIC: dict[str, PublicData] = {
    "ml-1m": PublicData(ML_1M_FILES, ml_1m, "MovieLens-1M; order only; GroupLens: research use, no redistribution"),
    "ml-100k": PublicData(("u.data", "u.user", "u.item", "u.genre"), ml_100k, "MovieLens-100k; times in seconds; GroupLens"),
    "ml-25m": PublicData(("ratings.csv",), ml_25m, "MovieLens-25M; times in seconds; GroupLens: research use, no redistribution"),
    **{
        name.lower(): PublicData(
            tuple(file.format(name) for file in S3REC_FILES), partial(s3rec, name=name), f"{name} as S3-Rec publishes it; order only"
        )
        for name in ("Beauty", "LastFM")
    },
    "pakdd2015": PublicData(
        ("sessions.csv", "unlabelled_sessions.csv", "labels.csv"),
        pakdd2015,
        "PAKDD 2015 shop sessions; a product is four events, its levels",
    ),
    "atus": PublicData(
        ("activities.tsv", "profile.csv"), atus, "American Time Use Survey; the diary's order is lost: by minutes, the longest last"
    ),
    "completejourney": PublicData(
        ("transactions_sample.csv", "demographics.csv"), completejourney, "The Complete Journey, single products; CC0"
    ),
    **{
        f"ml-1m-{genre.lower()}": PublicData(
            ML_1M_FILES, partial(ml_1m_without, genre=genre), f"MovieLens-1M, films outside {genre} → films of {genre}; order only"
        )
        for genre in ("Romance", "Horror", "Sci-Fi")
    },
    "elec-cell": PublicData(
        ("source_electronic.tsv", "target_cell.tsv"),
        partial(two_domains, source="source_electronic.tsv", target="target_cell.tsv"),
        "Amazon, electronics → cell phones; catalogue order, no times; research use",
    ),
    "loan-account": PublicData(
        ("source_loan.tsv", "target_account.tsv"),
        partial(two_domains, source="source_loan.tsv", target="target_account.tsv"),
        "a bank's loan products → account products; order only",
    ),
}


def _lines(path: Path, separator: str | None, encoding: str = "utf-8") -> Iterator[list[str]]:
    """Fields of every line that is not empty."""
    with path.open(encoding=encoding) as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n").split(separator)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _log(histories: Iterable[tuple[Any, Iterable[Any]]]) -> pa.Table:
    """Events without times from (user, items oldest first)."""
    rows = [(user, item) for user, items in histories for item in items]
    return pa.table({"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows]})


def _described(attributes: dict[Any, list[str]], name: str) -> pa.Table:
    """Items with one attribute that may have several values."""
    return pa.table({"item_id": list(attributes), name: pa.array(list(attributes.values()), pa.list_(pa.string()))})
