"""A loaded log: one table raw(u, i, t) in row order, with what was found while its types were settled."""

from dataclasses import dataclass, field

import duckdb

from userclue.data.origins import Origins
from userclue.data.readers import Rejects


@dataclass(kw_only=True)
class Facts:
    """What a log calls user, item and time (None: it has no time), and how its times are written.

    unit: s, ms, us or ns of the times, None without time. time_kind: how they were written (s, ms, us, ns, iso, date).
    """

    columns: tuple[str, str, str | None]
    unit: str | None = None
    time_kind: str | None = None
    layout: str = "events"
    warnings: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Log(Facts):
    """A loaded log. raw.u and raw.i are BIGINT, UBIGINT or VARCHAR; raw.t, if `unit`, is BIGINT in `unit`.

    problems: what makes the log unfit for `prepare`.
    """

    connection: duckdb.DuckDBPyConnection
    origins: Origins
    rejects: list[Rejects]
    types: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """Rows of raw, bad ones included."""
        return sum(part.rows for part in self.origins.parts)

    @property
    def n_rejected(self) -> int:
        """Lines that gave no row."""
        return sum(len(one.numbers) for one in self.rejects)

    def bad_condition(self) -> str:
        """SQL: true for rows of raw that are no event."""
        return "u IS NULL OR i IS NULL" + (" OR t IS NULL" if self.unit else "")
