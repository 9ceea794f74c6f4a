"""What the scan of a text file says of its integers, and that a log read as integers is the log read as text."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from userclue.data import events, formats, inmemory
from userclue.data.formats import scan_text
from userclue.data.readers import CsvFile
from userclue.data.store import Dataset
from userclue.errors import DataError

Make = Callable[..., Dataset]
Log = Callable[..., Path]

HERE = [HealthCheck.function_scoped_fixture]
fields = st.one_of(st.integers(0, 10**20).map(str), st.text("0123456789", max_size=4), st.text("01-+. eE_x", max_size=3))


@settings(max_examples=80, deadline=None, suppress_health_check=HERE)
@given(st.lists(st.lists(fields, min_size=1, max_size=4), max_size=12), st.sampled_from(",;\t|"), st.booleans(), st.integers(1, 9))
def test_integers_against_a_pattern(
    log: Log, monkeypatch: pytest.MonkeyPatch, rows: list[list[str]], mark: str, crlf: bool, chunk: int
) -> None:
    monkeypatch.setattr(formats, "_CHUNK", chunk)
    end = "\r\n" if crlf else "\n"
    path = log((mark.join("abcd") + end + "".join(mark.join(row) + end for row in rows)).encode())
    assert scan_text(path).integers == all(re.fullmatch("0|[1-9][0-9]*|", field) for row in rows for field in row)


def test_another_mark_than_the_header_has_is_no_integer(log: Log) -> None:
    assert not scan_text(log("1,2,3;4\n")).integers
    assert scan_text(log("1,2,34\n")).integers


INTEGERS = "5,10,3\n5,2,1\n12,10,2\n5,7,9\n"


@pytest.mark.parametrize(
    "more",
    [
        "",
        "0,0,0\n",
        "\n\n1,1,1\n",
        "9223372036854775807,9223372036854775807,2\n",
        "9223372036854775808,1,2\n",
        "18446744073709551615,1,2\n",
        "99999999999999999999,1,2\n",
        "007,1,2\n",
        "1,+7,2\n",
        "1, 7,2\n",
        "1e2,7,2\n",
        "12e2,7,2\n",
        "7.0,1,2\n",
        "-7,1,2\n",
        "-0,1,2\n",
        "1_000,1,2\n",
        "1,2,2.5\n",
        "1,2,1e3\n",
    ],
)
def test_read_as_integers_or_as_text(log: Log, make: Make, monkeypatch: pytest.MonkeyPatch, more: str) -> None:
    """The text of the odd row decides, whether or not the rest could be read as integers."""
    monkeypatch.setattr(inmemory, "MOST_LINES", 0)
    path = log(INTEGERS + more)
    first = make(path)
    files, users, items = first.manifest["files"], first.users, first.vocabulary.table["item_id"]
    monkeypatch.setattr(events, "_load_integers", lambda *_: None)
    other = make(path)
    assert other.manifest == first.manifest
    assert (files, users, items) == (other.manifest["files"], other.users, other.vocabulary.table["item_id"])


def test_integers_are_read_as_integers(log: Log, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inmemory, "MOST_LINES", 0)
    monkeypatch.setattr(CsvFile, "as_integers", lambda _: pytest.fail("read as integers"))
    make(log("1,2,3.5\n" + INTEGERS))
    for text in (INTEGERS, INTEGERS.replace("\n", "\r\n")):
        with pytest.raises(pytest.fail.Exception, match="read as integers"):
            make(log(text, header="user_id,item_id,timestamp" + ("\r\n" if "\r" in text else "\n")))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,2", "log.csv line 6: has 2 fields, the header has 3"),
        ("1,2,3,4", "log.csv line 6: has 4 fields, the header has 3"),
        (",2,3", 'log.csv line 6, column "user_id": is empty'),
        ("1,2,", 'log.csv line 6, column "timestamp": is empty'),
    ],
)
def test_bad_rows_among_integers(log: Log, make: Make, row: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        make(log(f"{INTEGERS}{row}\n1,2,3\n"))
    assert make(log(f"{INTEGERS}{row}\n1,2,3\n"), on_error="quarantine").manifest["events_quarantined"] == 1


def test_one_file_of_several_holds_text(log: Log, make: Make, histories: Callable[[Dataset], Any]) -> None:
    paths = [log(INTEGERS, "1.csv"), log("007,2,4\n5,10,4\n", "2.csv")]
    assert histories(make(paths)) == {"5": [2, 10, 10, 7], "12": [10], "007": [2]}


def test_nothing_heavy_is_imported(log: Log, tmp_path: Path) -> None:
    """pandas is in the environment of the tests, and Arrow would import it: a second of a start."""
    code = (
        "import sys; from userclue.data.prepare import prepare\n"
        f"for path in {[str(log(INTEGERS, '1.csv')), str(log('a,b,3', '2.csv'))]}:\n"
        f"    prepare(path, {str(tmp_path / 'out')!r}, overwrite=True, threads=1)\n"
        "found = {'pandas', 'torch', 'numpy.ma', 'scipy'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
