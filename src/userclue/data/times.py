"""Times as they stand in logs, told apart: seconds, ms, µs or ns since 1970 by magnitude, ISO dates and timestamps, with or without zone.

A log has one kind of time. A mixture is refused, because any reading of it would put some events in a wrong order.
"""

import re
from datetime import UTC, datetime
from typing import Any

from userclue.errors import UsageError

UNITS = {"s": 1_000, "ms": 1, "us": -1_000, "ns": -1_000_000}
"""Unit -> how many ms one of it is, or minus how many of it one ms is."""
NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# |t| up to 1e11 s is the year 5138; 1e11 ms is 1973, and so on upwards.
BOUNDS = {"s": 10**11, "ms": 10**14, "us": 10**17, "ns": 2**63}

_DAY = r"\d{4}-\d{1,2}-\d{1,2}"
_CLOCK = r"[T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?"
_ZONE = r" ?(Z|UTC|[+-]\d{2}(:?\d{2})?)"
LOCAL = f"{_DAY}({_CLOCK})?"
ZONED = f"{_DAY}{_CLOCK}{_ZONE}"
INTEGER = r"[+-]?\d+"
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"


def unit_of(magnitude: float) -> str:
    """The unit a number of this magnitude is in; 0 fits any (here: s)."""
    return next((unit for unit, bound in BOUNDS.items() if abs(magnitude) < bound), "ns")


def to_ms(value: int, unit: str) -> int:
    """`value` of `unit` as ms since 1970, rounded down."""
    scale = UNITS[unit]
    return value * scale if scale > 0 else value // -scale


def from_ms(ms: int, unit: str) -> int:
    """The smallest value of `unit` that is at or after `ms`."""
    scale = UNITS[unit]
    return -(-ms // scale) if scale > 0 else ms * -scale


def kind_sql(column: str) -> str:
    """SQL: the kind of a time's text (none, integer, number, zoned, local, bad)."""
    text = f"trim({column})"
    tries = {
        "integer": (INTEGER, f"TRY_CAST({text} AS BIGINT)"),
        "number": (NUMBER, f"nullif(isfinite(TRY_CAST({text} AS DOUBLE)), false)"),
        "zoned": (ZONED, zoned_sql(column)),
        "local": (LOCAL, local_sql(column)),
    }
    # A pattern that matches decides the kind; a text of a pattern that is no value (2024-13-01) is bad.
    cases = " ".join(
        f"WHEN regexp_full_match({text}, '{pattern}') THEN CASE WHEN {value} IS NULL THEN 'bad' ELSE '{kind}' END"
        for kind, (pattern, value) in tries.items()
    )
    return f"CASE WHEN {column} IS NULL OR {text} = '' THEN 'none' {cases} ELSE 'bad' END"


def zoned_sql(column: str) -> str:
    """SQL: µs since 1970 of a text with a zone, null where it is none."""
    return f"epoch_us(TRY_CAST(trim({column}) AS TIMESTAMPTZ))"


def local_sql(column: str) -> str:
    """SQL: µs since 1970 of a text without zone, taken as UTC, null where it is none."""
    return f"epoch_us(TRY_CAST(trim({column}) AS TIMESTAMP))"


def parse_instant(value: Any, what: str = "time") -> int:
    """A time a person gave (ISO text, epoch number in any unit, date or datetime) as ms since 1970. UsageError when it is none."""
    if isinstance(value, datetime):
        return round((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)
    text = str(value).strip()
    if re.fullmatch(INTEGER, text):
        return to_ms(int(text), unit_of(int(text)))
    if re.fullmatch(NUMBER, text):
        return to_ms(round(float(text) * 1_000_000), "us") if unit_of(float(text)) == "s" else to_ms(int(float(text)), unit_of(float(text)))
    try:
        return parse_instant(datetime.fromisoformat(text))
    except ValueError:
        raise UsageError(f"{what} {value!r}: give an ISO date such as 2024-01-31, or seconds since 1970") from None
