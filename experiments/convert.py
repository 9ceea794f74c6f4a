"""Public data sets in their own formats to tables userclue reads.

    .venv/bin/python experiments/convert.py ml-1m --data FOLDER -o OUT

writes OUT/events.parquet, OUT/items.parquet where the data set describes its items, one OUT/NAME.csv with `user_id,label` a label,
and OUT/targets.csv with `user_id,item_id` where users took things in another domain (cold start). A log without times
has no `timestamp` column: its rows are in order, oldest first.
"""

import argparse
import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from userclue.errors import UsageError
from userclue.files import staged_folder

ML_1M_AGES = {"1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55", "56": "56 and over"}
ML_100K_GENRES_FROM = 5  # first genre's column in u.item


@dataclass
class Tables:
    """What a data set becomes: `events`, perhaps `items`, and labels: name to {user: label}."""

    events: pa.Table
    items: pa.Table | None = None
    labels: dict[str, dict[Any, str]] = field(default_factory=dict)
    targets: pa.Table | None = None


def lines(path: Path, separator: str | None, encoding: str = "utf-8") -> Iterable[list[str]]:
    """Fields of every line that is not empty."""
    with path.open(encoding=encoding) as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n").split(separator)


def log(histories: Iterable[tuple[Any, Iterable[Any]]]) -> pa.Table:
    """Events without times from (user, items oldest first)."""
    rows = [(user, item) for user, items in histories for item in items]
    return pa.table({"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows]})


def described(attributes: dict[Any, list[str]], name: str) -> pa.Table:
    """Items with one attribute that may have several values."""
    return pa.table({"item_id": list(attributes), name: pa.array(list(attributes.values()), pa.list_(pa.string()))})


def ml_1m(data: Path) -> Tables:
    """MovieLens-1M: order without times; sequences.tsv has the movie ids of movies.dat (all 3,416 are found there)."""
    histories = ((int(user), map(int, items.split())) for user, items in lines(data / "sequences.tsv", "\t"))
    movies = {int(movie): genres.split("|") for movie, _, genres in lines(data / "movies.dat", "::", "latin-1")}
    users = list(lines(data / "users.dat", "::"))
    labels = {
        "gender": {int(row[0]): row[1] for row in users},
        "age": {int(row[0]): ML_1M_AGES[row[2]] for row in users},
        "occupation": {int(row[0]): row[3] for row in users},
    }
    return Tables(log(histories), described(movies, "genre"), labels)


def ml_1m_without(genre: str) -> Any:
    """Converter for cold start inside MovieLens-1M: histories of the films outside a genre, targets the films in it."""

    def convert(data: Path) -> Tables:
        whole = ml_1m(data)
        assert whole.items is not None
        inside = {movie for movie, genres in zip(*whole.items.to_pydict().values(), strict=True) if genre in genres}
        target = pa.array([movie in inside for movie in whole.events["item_id"].to_pylist()])
        return Tables(whole.events.filter(pc.invert(target)), whole.items, whole.labels, whole.events.filter(target))

    return convert


def two_domains(source: str, target: str) -> Any:
    """Converter for a source and a target file with one line a user (user, TAB, items); users in the target file alone stay in it."""

    def convert(data: Path) -> Tables:
        logs = [log((user, items.split()) for user, items in lines(data / name, "\t")) for name in (source, target)]
        return Tables(logs[0], targets=logs[1])

    return convert


def ml_100k(data: Path) -> Tables:
    """MovieLens-100k: u.data with times in seconds, u.user, u.item."""
    rows = [tuple(map(int, row)) for row in lines(data / "u.data", "\t")]
    times = pa.array([row[3] * 1000 for row in rows], pa.timestamp("ms"))
    events = pa.table({"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows], "timestamp": times})
    genres = [name for name, _ in lines(data / "u.genre", "|")]
    movies = {}
    for row in lines(data / "u.item", "|", "latin-1"):
        flags = row[ML_100K_GENRES_FROM:]
        movies[int(row[0])] = [name for name, flag in zip(genres, flags, strict=True) if flag == "1"]
    users = list(lines(data / "u.user", "|"))
    labels = {
        "gender": {int(row[0]): row[2] for row in users},
        "age": {int(row[0]): f"{row[1][:-1] or '0'}0s" for row in users},
        "occupation": {int(row[0]): row[3] for row in users},
    }
    return Tables(events, described(movies, "genre"), labels)


def s3rec(name: str) -> Any:
    """Converter for one data set of S3-Rec: a line a user (user, then items in order), item attributes as numbers."""

    def convert(data: Path) -> Tables:
        histories = ((int(row[0]), map(int, row[1:])) for row in lines(data / f"{name}.txt", None))
        found = json.loads((data / f"{name}_item2attributes.json").read_text(encoding="utf-8"))
        attributes = {int(item): [str(value) for value in dict.fromkeys(values)] for item, values in found.items()}
        return Tables(log(histories), described(attributes, "attribute"))

    return convert


def pakdd2015(data: Path) -> Tables:
    """PAKDD 2015 shop sessions: every product A/B/C/D becomes four events, one a level, at the session's start.

    The unlabelled sessions are in the events too: pre-training may read them.
    """
    users, items, times = [], [], []
    for name in ("sessions.csv", "unlabelled_sessions.csv"):
        for user, start, _, paths in lines(data / name, ","):
            tokens = [level for path in paths.split(";") for level in path.strip("/").split("/")]
            users += [user] * len(tokens)
            items += tokens
            times += [datetime.fromisoformat(start)] * len(tokens)
    events = pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(times, pa.timestamp("ms"))})
    levels = {item: [item[0]] for item in dict.fromkeys(items)}
    return Tables(events, described(levels, "level"), {"gender": dict(lines(data / "labels.csv", ","))})


def atus(data: Path) -> Tables:
    """American Time Use Survey: a person's activities of one day.

    The diary's order is lost in the source. Here activities stand by minutes, the longest last, so that a model that keeps
    the most recent n keeps the longest. Codes of child care and work partly name the labels `child` and `labour`.
    """
    histories = []
    for user, day in lines(data / "activities.tsv", "\t"):
        pairs = [(int(minutes), code) for code, minutes in (pair.split(":") for pair in day.split())]
        histories.append((int(user), [code for _, code in sorted(pairs)]))
    with (data / "profile.csv").open(encoding="utf-8") as file:
        people = list(csv.DictReader(file))
    columns = {
        "sex": "sex",
        "marital": "marital",
        "partner": "partner_hh",
        "child": "hh_child",
        "labour": "labor_status",
        "education": "edu",
    }
    labels = {name: {int(row["tucaseid"]): row[column] for row in people if row[column]} for name, column in columns.items()}
    labels["age"] = {int(row["tucaseid"]): f"{row['age'][:-1] or '0'}0s" for row in people}
    return Tables(log(histories), labels=labels)


CONVERTERS = {
    "ml-1m": ml_1m,
    "ml-100k": ml_100k,
    "beauty": s3rec("Beauty"),
    "lastfm": s3rec("LastFM"),
    "pakdd2015": pakdd2015,
    "atus": atus,
    "ml-1m-romance": ml_1m_without("Romance"),
    "ml-1m-horror": ml_1m_without("Horror"),
    "ml-1m-sci-fi": ml_1m_without("Sci-Fi"),
    "elec-cell": two_domains("source_electronic.tsv", "target_cell.tsv"),
    "loan-account": two_domains("source_loan.tsv", "target_account.tsv"),
}


def write(tables: Tables, out: Path) -> None:
    """The tables as files of a new folder `out`; whole or not at all."""
    with staged_folder(out) as folder:
        pq.write_table(tables.events, folder / "events.parquet", write_page_checksum=True)
        if tables.items is not None:
            pq.write_table(tables.items, folder / "items.parquet", write_page_checksum=True)
        if tables.targets is not None:
            pa.csv.write_csv(tables.targets, folder / "targets.csv")
        for name, labels in tables.labels.items():
            with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([("user_id", "label"), *labels.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(CONVERTERS))
    parser.add_argument("--data", type=Path, required=True, help="folder with the data set's own files")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to make")
    options = parser.parse_args()
    try:
        tables = CONVERTERS[options.name](options.data)
        write(tables, options.out)
    except (OSError, UsageError) as error:
        parser.exit(2, f"{error}\n")
    print(
        f"{options.out}: {tables.events.num_rows} events, labels {', '.join(tables.labels) or 'none'}, {len(tables.targets or ())} targets"
    )


if __name__ == "__main__":
    main()
