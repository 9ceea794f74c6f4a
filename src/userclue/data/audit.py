"""A look at a log before anything is made of it: what is there, what is odd, what `prepare` would drop, and what to do."""

import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from userclue.data.badrows import count_bad, first_bad
from userclue.data.coding import code_ids
from userclue.data.cores import k_core
from userclue.data.events import load_events, open_events
from userclue.data.histories import windowed
from userclue.data.log import Log
from userclue.data.sql import bounded, connect, one_row
from userclue.data.times import to_ms

BOT_FACTOR = 100
RHYTHM_EVENTS, RHYTHM_SHARE = 100, 0.9
BOT_RULE = (
    f"more than {BOT_FACTOR} times the median user's events, or at least {RHYTHM_EVENTS} events of which "
    f"{RHYTHM_SHARE:.0%} follow one another after exactly the same time, not zero"
)
_SHOWN = 10
_LEVELS = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}


def audit(
    events: Any,
    *,
    user_col: str = "user_id",
    item_col: str = "item_id",
    time_col: str | None = "timestamp",
    layout: str = "auto",
    time_unit: str | None = None,
    min_user_events: int = 1,
    min_item_users: int = 1,
    window: int | None = None,
    memory_limit: str | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Describe a log as a JSON-able dict; bad rows and mixed times are counted and named, not refused.

    Keys: rows, events, bad_rows, first_bad, problems, layout, schema, nulls, users, items, duplicates, ties, time, order, lengths,
    catalogue, bots, would_drop, warnings, findings (plain sentences, each with a remedy).
    Raises DataError when a file cannot be read at all or a column is missing, UsageError for unknown options.
    """
    with tempfile.TemporaryDirectory(prefix="userclue-audit-") as folder:
        connection = connect(Path(folder) / "spill", memory_limit, threads)
        try:
            with bounded("audit"):
                opened = open_events(
                    lambda: connection,
                    events,
                    user_col=user_col,
                    item_col=item_col,
                    time_col=time_col,
                    layout=layout,
                    time_unit=time_unit,
                )
                log = load_events(connection, opened)
                report = _describe(log)
                report["would_drop"] = _would_drop(log, report, min_user_events, min_item_users, window)
        finally:
            connection.close()
    report["findings"] = _findings(report)
    return report


def _describe(log: Log) -> dict[str, Any]:
    """Everything but would_drop and findings; leaves only good rows in raw, and users and items coded."""
    connection = log.connection
    names = [name for name, column in zip("uit", log.columns, strict=True) if column is not None]
    usable_time = log.unit is not None and not log.problems
    counted = ", ".join(f"count(*) - count({name})" for name in names)
    missing = one_row(connection, f"SELECT {counted} FROM raw")
    condition = log.bad_condition() if usable_time else "u IS NULL OR i IS NULL"
    bad = count_bad(log) if usable_time else log.n_rejected + one_row(connection, f"SELECT count(*) FROM raw WHERE {condition}")[0]
    report: dict[str, Any] = {
        "rows": log.n_rows + log.n_rejected,
        "events": log.n_rows + log.n_rejected - bad,
        "bad_rows": bad,
        "first_bad": first_bad(log) if usable_time and bad else "",
        "problems": log.problems,
        "layout": log.layout,
        "schema": {column: _kind(log, name) for name, column in zip("uit", log.columns, strict=True) if column is not None},
        "nulls": dict(zip([column for column in log.columns if column is not None], missing, strict=True)),
        "order": _order(connection, usable_time),
    }
    if bad > log.n_rejected:
        connection.execute(f"DELETE FROM raw WHERE {condition}")
    per_user, n_items = code_ids(connection)
    per_item = connection.execute("SELECT n FROM all_items").fetchnumpy()["n"]
    time = ", t" if usable_time else ""
    repeated = f"SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM raw GROUP BY u, i{time} HAVING count(*) > 1)"
    tied = "SELECT coalesce(sum(n), 0) FROM (SELECT count(*) AS n FROM raw GROUP BY u, t HAVING count(*) > 1)"
    report |= {
        "users": len(per_user),
        "items": n_items,
        "duplicates": int(one_row(connection, repeated)[0]) if usable_time else None,
        "ties": int(one_row(connection, tied)[0]) if usable_time else None,
        "time": _time(log) if usable_time else None,
        "lengths": _quantiles(per_user),
        "catalogue": _catalogue(per_item),
        "bots": _bots(log, per_user, usable_time),
        "warnings": log.warnings,
    }
    return report


def _kind(log: Log, name: str) -> str:
    if name == "t":
        return {"iso": "ISO dates as text", "date": "dates"}.get(log.time_kind or "", f"numbers ({log.time_kind})") if log.unit else "none"
    return {"int": "int64", "uint": "uint64"}.get(log.types[name], "string")


def _order(connection: duckdb.DuckDBPyConnection, usable_time: bool) -> dict[str, bool | None]:
    """Whether rows already stand in order of time, and whether each user's rows stand together."""
    back = "count(*) FILTER (t < before)" if usable_time else "NULL"
    columns = "t, lag(t) OVER () AS before, " if usable_time else ""
    backward, runs, users = one_row(
        connection,
        f"SELECT {back}, count(*) FILTER (u IS DISTINCT FROM above), count(DISTINCT u) + max(u IS NULL)::INT "
        f"FROM (SELECT {columns}u, lag(u) OVER () AS above FROM raw)",
    )
    # The first row is always counted as a new run, but for a null user.
    return {
        "by_time": None if backward is None else backward == 0,
        "by_user": bool(runs is not None and users is not None and runs <= users),
    }


def _time(log: Log) -> dict[str, Any]:
    assert log.unit is not None
    low, high = one_row(log.connection, "SELECT min(t), max(t) FROM raw")
    now = one_row(log.connection, "SELECT epoch_ms(now())")[0]
    negative, future = one_row(
        log.connection, f"SELECT count(*) FILTER (t < 0), count(*) FILTER (t > {max(0, now)} * {_per_ms(log.unit)}) FROM raw"
    )
    ends = [None if end is None else to_ms(end, log.unit) for end in (low, high)]
    return {"unit": log.time_kind, "min": ends[0], "max": ends[1], "negative": negative, "future": future}


def _per_ms(unit: str) -> str:
    return {"s": "0.001", "ms": "1", "us": "1000", "ns": "1000000"}[unit]


def _quantiles(lengths: np.ndarray) -> dict[str, float]:
    if not len(lengths):
        return {}
    return {name: float(np.quantile(lengths, level)) for name, level in _LEVELS.items()} | {"mean": float(lengths.mean())}


def _catalogue(per_item: np.ndarray) -> dict[str, float]:
    """Share of events in the most popular 1 % and 10 % of items (at least one item), and items seen once."""
    if not len(per_item):
        return {}
    falling, total = np.sort(per_item)[::-1], float(per_item.sum())
    shares = {f"top_{share}_percent": float(falling[: max(1, len(falling) * share // 100)].sum() / total) for share in (1, 10)}
    return shares | {"items_seen_once": int(np.count_nonzero(per_item == 1))}


def _bots(log: Log, per_user: np.ndarray, usable_time: bool) -> dict[str, Any]:
    bound = BOT_FACTOR * float(np.median(per_user)) if len(per_user) else 0.0
    busy = log.connection.execute(f"SELECT u, n FROM all_users WHERE n > {bound} ORDER BY n DESC, u").fetchall()
    regular: list[tuple[Any, ...]] = []
    if usable_time:
        regular = log.connection.execute(
            "WITH gaps AS (SELECT u, t - lag(t) OVER (PARTITION BY u ORDER BY t) AS gap FROM raw "
            f"SEMI JOIN (SELECT u FROM all_users WHERE n >= {RHYTHM_EVENTS}) USING (u)), "
            "counted AS (SELECT u, gap, count(*) AS n FROM gaps WHERE gap IS NOT NULL GROUP BY u, gap) "
            "SELECT u, sum(n) + 1 AS events FROM counted GROUP BY u "
            f"HAVING max(n) FILTER (gap > 0) >= {RHYTHM_SHARE} * sum(n) ORDER BY events DESC, u"
        ).fetchall()
    found = {user: int(events) for user, events in [*busy, *regular]}
    shown = [{"user": user, "events": events} for user, events in list(found.items())[:_SHOWN]]
    return {"rule": BOT_RULE, "users": len(found), "events": sum(found.values()), "shown": shown}


def _would_drop(log: Log, report: dict[str, Any], min_user_events: int, min_item_users: int, window: int | None) -> dict[str, Any]:
    """Events that each rule of `prepare` would drop, and what would be left."""
    if not report["users"]:
        return {"min_user_events": 0, "min_item_users": 0, "window": 0, "users_left": 0, "items_left": 0, "events_left": 0}
    events = log.connection.execute("SELECT n FROM all_users ORDER BY code").fetchnumpy()["n"].astype(np.int64)
    core = k_core(log.connection, events, report["items"], min_user_events, min_item_users)
    kept = windowed(core.user_events, window)
    return {
        "min_user_events": core.lost_to_users,
        "min_item_users": core.lost_to_items,
        "window": int((core.user_events - kept).sum()),
        "users_left": int(np.count_nonzero(kept)) if window is None else int((kept // window).sum()),
        "events_left": int(kept.sum()),
    }


def _findings(report: dict[str, Any]) -> list[str]:
    """Plain sentences, each with a remedy."""
    found = [*report["problems"], *report["warnings"]]
    if report["bad_rows"]:
        where = f"; the first: {report['first_bad']}" if report["first_bad"] else ""
        found.append(f"{report['bad_rows']} of {report['rows']} rows are bad{where}: correct them or prepare with --on-error quarantine.")
    if report["duplicates"]:
        found.append(
            f"{report['duplicates']} events repeat user, item and time of another: drop them with --duplicates drop if they are copies."
        )
    if report["ties"] and report["ties"] > 0.01 * report["events"]:
        share = report["ties"] / report["events"]
        found.append(
            f"{share:.0%} of events share user and time with another: their order is that of the rows; give finer times if you have them."
        )
    if report["time"] and report["time"]["future"]:
        found.append(f"{report['time']['future']} events are in the future: check the unit of time ({report['time']['unit']}) or name it.")
    if report["time"] and report["time"]["negative"]:
        found.append(f"{report['time']['negative']} events are before 1970: check whether a missing time was written as a negative number.")
    if report["bots"]["users"]:
        first = report["bots"]["shown"][0]
        found.append(
            f"{report['bots']['users']} users look like machines (for example {first['user']} with {first['events']} events): "
            "take them out of the log if they are not people."
        )
    if report["lengths"] and report["lengths"]["median"] < 3:
        found.append("half of the users have fewer than 3 events: leave-one-out needs 3; raise --min-user-events or give a longer log.")
    once = report["catalogue"].get("items_seen_once", 0)
    if once > 0.3 * max(1, report["items"]):
        found.append(
            f"{once} of {report['items']} items are seen once: nothing can be learned of them; try --min-item-users 2 or coarser items."
        )
    if report["users"] and not report["would_drop"]["events_left"]:
        found.append("nothing would be left under these thresholds: lower --min-user-events, --min-item-users or --window.")
    return found
