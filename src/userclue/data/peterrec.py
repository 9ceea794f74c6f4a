"""PeterRec's files: one user a line, no ids, `i1,i2,...,in,,t1,t2`: history, an empty field, targets. Zeros in front are padding.

    0,0,31544,51967,,101115,1846      the user took 31544, then 51967; in the other domain 101115 and 1846
    31544,51967,44427                 a history without targets, as in the files for pre-training

User n is line n; a second file goes on counting. The histories become events; the targets wait in the database's table `targets`
until `write_targets` puts them beside the dataset.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from userclue.data.origins import Part
from userclue.data.readers import Rejects, SequenceFile, Template, aliases, count_rows, drop_rejects, lines_relation, take_rejects
from userclue.data.sql import literal, one_row, translated
from userclue.errors import DataError

TARGETS = "targets.csv"
_CERTAIN = re.compile(r"(\d+,)+,\d+(,\d+)*")
_ITEM = r"0|[1-9]\d{0,17}"
# A target is taken for a class when each user has one, and so few different ones occur that each is shared by several users.
_MOST_CLASSES, _USERS_A_CLASS = 100, 2


class PeterRecFile(SequenceFile):
    """A file in PeterRec's layout; its users are numbered from `first_user` on."""

    layout = "peterrec"

    def __init__(self, path: Path, first_user: int = 1) -> None:
        super().__init__(path)
        self.first_user = first_user

    @staticmethod
    def looks_like(line: str) -> bool:
        """Whether a first line can only be of this layout: numbers, one empty field, numbers."""
        return _CERTAIN.fullmatch(line.strip()) is not None

    def load(self, connection: duckdb.DuckDBPyConnection, table: str, wanted: Sequence[str], template: Template) -> tuple[Part, Rejects]:
        """Create `table` from the template and add to the table targets(user_id, place, target); returns origin and lines refused."""
        drop_rejects(connection)
        with translated(self.name):
            connection.execute(
                f"CREATE OR REPLACE TABLE lines AS SELECT trim(line, ' ' || chr(9) || chr(13) || chr(65279)) AS line "
                f"FROM {lines_relation(self.path)}"
            )
            broken = take_rejects(connection)
            if len(broken.numbers):
                raise DataError(f"{self.name} line {broken.numbers[0]}: {broken.reasons[0]}; correct the line")
            self._parse(connection)
            rejects = self._refuse(connection)
            select = template(aliases(len(wanted)))
            items = "unnest(list_filter(history, lambda item: item <> '0'))"
            connection.execute(
                f"CREATE OR REPLACE TABLE {table} AS SELECT {select} FROM "
                f"(SELECT CAST(user_id AS VARCHAR) AS a0, {items} AS a1 FROM parsed WHERE fault = 0)"
            )
            # Loaded again when a guess of the types fails: then what stood there of this file goes.
            connection.execute("CREATE TABLE IF NOT EXISTS targets (user_id BIGINT, place BIGINT, target VARCHAR)")
            connection.execute(f"DELETE FROM targets WHERE user_id >= {self.first_user}")
            connection.execute(
                "INSERT INTO targets SELECT user_id, unnest(range(len(targets))), unnest(targets) FROM parsed "
                "WHERE fault = 0 AND items > 0 ORDER BY user_id"
            )
            self.empty_users = int(one_row(connection, "SELECT count(*) FROM parsed WHERE fault = 0 AND items = 0")[0])
            connection.execute("DROP TABLE lines")
            connection.execute("DROP TABLE parsed")
        return Part(self.name, count_rows(connection, table), 1, "event"), rejects

    def _parse(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create parsed(number, user_id, fields, history, targets, items, fault): fault is the first field that is wrong, 0 for none."""
        odd = _first("history", f"NOT regexp_full_match(field, '{_ITEM}')")
        item, zero = _first("history", "field <> '0'"), _first("history[padding + 1:]", "field = '0'")
        empty = _first("targets", "field = ''")
        steps = [
            f"SELECT rowid + 1 AS number, rowid + {self.first_user} AS user_id, "
            "list_transform(string_split(line, ','), lambda field: trim(field)) AS fields FROM lines WHERE line <> ''",
            "SELECT *, coalesce(nullif(list_position(fields, ''), 0), len(fields) + 1) AS cut FROM ({})",
            "SELECT *, fields[:cut - 1] AS history, fields[cut + 1:] AS targets FROM ({})",
            f"SELECT *, CASE WHEN {item} = 0 THEN len(history) ELSE {item} - 1 END AS padding FROM ({{}})",
            f"SELECT *, {odd} AS odd, {zero} AS zero, {empty} AS empty FROM ({{}})",
            "SELECT number, user_id, fields, history, targets, len(history) - padding AS items, CASE WHEN odd > 0 THEN odd "
            "WHEN zero > 0 THEN padding + zero WHEN empty > 0 THEN cut + empty "
            "WHEN cut <= len(fields) AND len(targets) = 0 THEN cut ELSE 0 END AS fault FROM ({})",
        ]
        query = steps[0]
        for step in steps[1:]:
            query = step.replace("{}", query)
        connection.execute(f"CREATE OR REPLACE TABLE parsed AS {query}")

    def _refuse(self, connection: duckdb.DuckDBPyConnection) -> Rejects:
        rows = connection.execute(
            "SELECT number, fault, fields[fault], len(fields), array_to_string(fields, ',') FROM parsed WHERE fault > 0 ORDER BY number"
        ).fetchall()
        return Rejects(np.array([row[0] for row in rows], np.int64), [_reason(*row[1:4]) for row in rows], [row[4] for row in rows])


def _first(fields: str, condition: str) -> str:
    """SQL: the place of the first of `fields` for which the condition on `field` holds, 0 if there is none."""
    return f"coalesce(list_position(list_transform({fields}, lambda field: {condition}), true), 0)"


def _reason(place: int, value: str, fields: int) -> str:
    if value == "0":
        return f'column {place}: "0" stands after an item; zeros may pad the front only'
    if value:
        return f'column {place}: "{value}" is no item number'
    if place == fields:
        return f"column {place}: no target follows the empty field"
    return f"column {place}: is empty; one empty field, between history and targets, is all there may be"


def write_targets(connection: duckdb.DuckDBPyConnection, folder: Path, kind: str) -> dict[str, Any] | None:
    """Write targets.csv for the users of the view `users`, and return what the manifest says of it; None where no line has a target.

    kind: `items` writes user_id,item_id (a row a target), `labels` user_id,label (one a user), `auto` decides between them.
    Raises DataError when a user has several targets that are to be labels, or a target that is to be an item is 0.
    """
    kept = "targets SEMI JOIN (SELECT CAST(u AS VARCHAR) AS name FROM users) ON name = CAST(user_id AS VARCHAR)"
    rows, users, distinct = one_row(connection, f"SELECT count(*), count(DISTINCT user_id), count(DISTINCT target) FROM {kept}")
    if not rows:
        return None
    if kind == "auto":
        kind = "labels" if rows == users and distinct <= min(_MOST_CLASSES, users / _USERS_A_CLASS) else "items"
    if kind == "labels" and rows > users:
        user = one_row(connection, f"SELECT user_id FROM {kept} WHERE place = 1 ORDER BY user_id LIMIT 1")[0]
        raise DataError(f"user {user} (the line of that number) has several targets, and a label is one; give --targets items")
    zero = connection.execute(f"SELECT user_id FROM {kept} WHERE target = '0' ORDER BY user_id LIMIT 1").fetchone()
    if kind == "items" and zero:
        raise DataError(
            f'user {zero[0]} (the line of that number): the target "0" is padding, not an item; take it out, or give --targets labels '
            "if the targets are classes"
        )
    column = "item_id" if kind == "items" else "label"
    connection.execute(
        f"COPY (SELECT user_id, target AS {column} FROM {kept} ORDER BY user_id, place) TO {literal(str(folder / TARGETS))} (HEADER)"
    )
    return {"kind": kind, "rows": rows, "users": users}
