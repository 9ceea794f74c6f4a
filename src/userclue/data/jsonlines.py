"""JSON lines, read as lines of text so that a bad one keeps its number."""

import json
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np

from userclue.data.formats import open_text, scan_text
from userclue.data.origins import Part
from userclue.data.readers import Rejects, Template, aliases, count_rows, drop_rejects, lines_relation, take_rejects
from userclue.data.sql import literal, translated
from userclue.errors import DataError

# What a JSON value's type makes of its column; numbers and times are settled from the text, as for CSV.
_NUMBERS = ("BIGINT", "UBIGINT")


class JsonLines:
    """One JSON object a line. Blank lines are passed over; a line that is no object is refused."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self.scan = scan_text(path)
        self.columns = self._keys()
        self._parsed: list[str] = []
        self._refused = Rejects()

    def _keys(self) -> list[str]:
        """Keys of the first objects; a column may be absent from some lines."""
        keys: dict[str, None] = {}
        with open_text(self.path) as file:
            for _, line in zip(range(1000), file, strict=False):
                try:
                    found = json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError):
                    continue
                if isinstance(found, dict):
                    keys.update(dict.fromkeys(found))
        if not keys:
            raise DataError(f"{self.name}: none of the first lines is a JSON object; give one object a line")
        return list(keys)

    def _parse(self, connection: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> None:
        """Create json_rows(a0.., y0.., line, state): texts, JSON types; state 0 is an object, 1 is refused, 2 is blank."""
        if self._parsed == list(wanted):
            return
        pointers = [literal("/" + name.replace("~", "~0").replace("/", "~1")) for name in wanted]
        picked = ", ".join(
            f"json_extract_string(j, {pointer}) AS a{place}, json_type(j, {pointer}) AS y{place}" for place, pointer in enumerate(pointers)
        )
        drop_rejects(connection)
        with translated(self.name):
            connection.execute(
                f"CREATE OR REPLACE TABLE json_rows AS SELECT {picked}, CASE WHEN j IS NULL THEN line END AS line, "
                "(CASE WHEN j IS NOT NULL THEN 0 WHEN line IS NULL THEN 2 ELSE 1 END)::TINYINT AS state FROM ("
                "SELECT line, CASE WHEN json_valid(line) AND json_type(line) = 'OBJECT' THEN line END AS j FROM ("
                f"SELECT nullif(trim(ltrim(line, chr(65279)), ' ' || chr(9) || chr(13)), '') AS line FROM {lines_relation(self.path)}))"
            )
        self._refused = take_rejects(connection)
        self._parsed = list(wanted)

    def kinds(self, connection: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> list[str]:
        """`loose` where every value is an integer or null, `text` where some are strings, `float`, or other:OBJECT and the like."""
        self._parse(connection, wanted)
        kinds = []
        for place in range(len(wanted)):
            query = f"SELECT DISTINCT y{place} FROM json_rows WHERE y{place} IS NOT NULL AND y{place} <> 'NULL'"
            types = {row[0] for row in connection.execute(query).fetchall()}
            others = sorted(types - {"VARCHAR", "DOUBLE", *_NUMBERS})
            kinds.append(f"other:{others[0]}" if others else "float" if "DOUBLE" in types else "text" if "VARCHAR" in types else "loose")
        return kinds

    def load(self, connection: duckdb.DuckDBPyConnection, table: str, wanted: Sequence[str], template: Template) -> tuple[Part, Rejects]:
        """Create `table` from the template; returns its origin and the lines refused."""
        self._parse(connection, wanted)
        with translated(self.name):
            connection.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {template(aliases(len(wanted)))} FROM json_rows WHERE state = 0")
        read = Part(self.name, count_rows(connection, "json_rows"), 1, "line", self._refused.numbers)
        rows = connection.execute("SELECT rowid, state, line FROM json_rows WHERE state > 0 ORDER BY rowid").fetchall()
        numbers = read.numbers(np.array([row[0] for row in rows], np.int64))
        bad = [place for place, row in enumerate(rows) if row[1] == 1]
        rejects = Rejects(
            np.concatenate([self._refused.numbers, numbers[bad]]),
            self._refused.reasons + ["is not a JSON object"] * len(bad),
            self._refused.texts + [rows[place][2] for place in bad],
        )
        connection.execute("DROP TABLE json_rows")
        self._parsed = []
        skipped = np.union1d(self._refused.numbers, numbers)
        return Part(self.name, count_rows(connection, table), 1, "line", skipped), rejects
