"""A loaded log: one table raw(u, i, t) in row order, with what was found while its types were settled."""

from dataclasses import dataclass, field

import duckdb

from userclue.data.origins import Origins
from userclue.data.readers import Rejects


@dataclass
class Log:
    """A loaded log. raw.u and raw.i are BIGINT, UBIGINT or VARCHAR; raw.t, if `unit`, is BIGINT in `unit`.

    columns: what the log calls user, item and time (None: it has no time). unit: s, ms, us or ns of raw.t, None without time.
    time_kind: how times were written (s, ms, us, ns, iso, date). problems: what makes the log unfit for `prepare`.
    """

    connection: duckdb.DuckDBPyConnection
    columns: tuple[str, str, str | None]
    origins: Origins
    rejects: list[Rejects]
    types: dict[str, str] = field(default_factory=dict)
    unit: str | None = None
    time_kind: str | None = None
    layout: str = "events"
    warnings: list[str] = field(default_factory=list)
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
