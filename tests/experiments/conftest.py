"""Tiny data sets in the forms in which the public ones are published, and a reproduction made of them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from userclue.experiments.runner import Reproduction, reproduce
from userclue.experiments.scales import Scale
from userclue.experiments.studies import STUDIES
from userclue.train.journal import UNWATCHED

USERS, MOVIES = 60, 80
ONLY = ("plain", "clue", "best", "clue_zero", "peterrec", "ml-1m-gender", "ml-1m-sci-fi", "ml-1m-30")
TINY = Scale("smoke", {"steps": 4, "dim": 8, "blocks": 1, "heads": 2}, {"steps": 4}, (0, 1), None, dropouts=(0.1, 0.5), shares=(0.5, 1.0))


def write_ml_1m(folder: Path) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    histories = {user: rng.permutation(MOVIES)[: int(rng.integers(60, MOVIES))] + 1 for user in range(1, USERS + 1)}
    (folder / "sequences.tsv").write_text("".join(f"{user}\t{' '.join(map(str, items))}\n" for user, items in histories.items()))
    ages = ("1", "25", "56")
    (folder / "users.dat").write_text("".join(f"{user}::{'FM'[user % 2]}::{ages[user % 3]}::{user % 4}::00000\n" for user in histories))
    genres = ("Sci-Fi|Drama", "Romance", "Horror", "Drama")
    (folder / "movies.dat").write_text("".join(f"{movie}::Film {movie} (1999)::{genres[movie % 4]}\n" for movie in range(1, MOVIES + 1)))


def write_elec_cell(folder: Path) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in ("source_electronic.tsv", "target_cell.tsv"):
        lines = [f"{user}\t{' '.join(map(str, rng.permutation(12)[:5]))}\n" for user in range(USERS)]
        (folder / name).write_text("".join(lines))


def write_loan_account(folder: Path) -> None:
    write_elec_cell(folder)
    (folder / "source_electronic.tsv").rename(folder / "source_loan.tsv")
    (folder / "target_cell.tsv").rename(folder / "target_account.tsv")


def write_atus(folder: Path) -> None:
    folder.mkdir(parents=True)
    days = [f"{user}\t10101:{400 + user} 50101:{user + 1} 1812:15\n" for user in range(USERS)]
    (folder / "activities.tsv").write_text("".join(days))
    head = "tucaseid,sex,age,marital,partner_hh,hh_child,labor_status,edu\n"
    people = [f"{user},{user % 2 + 1},{20 + user},{'yes' if user % 3 else 'no'},,1,2,3\n" for user in range(USERS)]
    (folder / "profile.csv").write_text(head + "".join(people))


def write_s3rec(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("Beauty", "LastFM"):
        (folder / f"{name}.txt").write_text(
            "".join(f"{user} {' '.join(str((user + step) % 9 + 1) for step in range(6))}\n" for user in range(9))
        )
        (folder / f"{name}_item2attributes.json").write_text(json.dumps({str(item): [item % 2, 7, 7] for item in range(1, 10)}))


def write_pakdd(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "sessions.csv").write_text("u1,2014-11-14 00:02:14,2014-11-14 00:02:20,A1/B2/C3/D4/;A1/B2/C9/D8/\n")
    (folder / "unlabelled_sessions.csv").write_text("u2,2014-11-15 10:00:00,2014-11-15 10:01:00,A2/B1/C1/D1/\n")
    (folder / "labels.csv").write_text("u1,female\n")


def write_completejourney(folder: Path) -> None:
    folder.mkdir(parents=True)
    head = "household_id,store_id,basket_id,product_id,quantity,sales_value,retail_disc,coupon_disc,coupon_match_disc,week"
    rows = [f"{user % 7},1,2,{user % 5},1.0,3.86,0.43,0.0,0.0,5,2017-01-28 19:06:{user % 60:02}" for user in range(USERS)]
    (folder / "transactions_sample.csv").write_text("\n".join([head + ",transaction_timestamp", *rows]) + "\n")
    head = "household_id,age,income,home_ownership,marital_status,household_size,household_comp,kids_count"
    people = [f"{user},65+,35-49K,Homeowner,{'NA' if user == 3 else 'Married'},2,2 Adults No Kids,0" for user in range(7)]
    (folder / "demographics.csv").write_text("\n".join([head, *people]) + "\n")


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as --data takes it, with every data set but the paper's own."""
    data = tmp_path_factory.mktemp("public")
    write_ml_1m(data / "ml-1m")
    write_elec_cell(data / "amazon-elec-cell" / "clean")
    write_loan_account(data / "mybank-cdr" / "loan_account")
    write_atus(data / "atus")
    write_s3rec(data / "s3rec")
    write_pakdd(data / "pakdd2015-gender")
    write_completejourney(data / "completejourney")
    return data


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small data set."""
    data = tmp_path_factory.mktemp("few")
    write_ml_1m(data / "ml-1m")
    return data


@dataclass(frozen=True)
class Made:
    """A finished reproduction and what it said of itself."""

    out: Path
    done: Reproduction


@pytest.fixture(scope="session")
def scale() -> Scale:
    """Four steps of everything."""
    return TINY


@pytest.fixture(scope="session")
def made(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Everything of the paper and the table of all systems, on one small data set and under two seeds; tests only read it."""
    out = tmp_path_factory.mktemp("made") / "out"
    return Made(out, reproduce(list(STUDIES), out, TINY, data=few, only=ONLY, tell=lambda _: None, watch=UNWATCHED))
