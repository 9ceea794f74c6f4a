"""Which files a source names, what format each has, and what its bytes hold before any parser sees them."""

import difflib
import glob
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from userclue.errors import DataError

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".txt": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_CHUNK = 1 << 18  # small enough to stay in the processor's cache while it is looked at several times
_LF, _ZERO = 10, 48
_MARKS = b"\r\n,;\t|"


def is_frame(source: Any) -> bool:
    """Whether `source` is a table in memory: anything with `__arrow_c_stream__`, or a lazy frame with `collect`."""
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "collect")


def find_files(source: Any) -> list[Path]:
    """The files that a path, a glob, a folder or a sequence of these names, in order; folders and globs are sorted by name.

    Raises DataError when a file is missing, a folder holds none, or the files are of several formats.
    """
    several = isinstance(source, Sequence) and not isinstance(source, str)
    named = [Path(one) for one in (source if several else [source])]
    if not named:
        raise DataError("no events given: name a file, a folder, a glob or a frame")
    found = [path for one in named for path in _expand(one)]
    formats = {format_of(path): path for path in reversed(found)}
    if len(formats) > 1:
        kinds = ", ".join(f"{path} ({name})" for name, path in formats.items())
        raise DataError(f"files of several formats: {kinds}; give files of one format")
    return found


def _expand(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        # Spark and its kin leave _SUCCESS and .crc files beside the data.
        inside = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith((".", "_")))
        if not inside:
            raise DataError(f"{path}: the folder holds no files; give a folder of CSV, TSV, JSON lines or Parquet files")
        return inside
    matches = sorted(Path(one) for one in glob.glob(str(path), recursive=True) if Path(one).is_file())
    if matches:
        return matches
    if any(letter in str(path) for letter in "*?["):
        raise DataError(f"{path}: no file matches; check the pattern")
    if path.parent.is_dir():
        close = difflib.get_close_matches(path.name, [one.name for one in path.parent.iterdir()], 1)
        raise DataError(f"{path}: no such file" + (f"; did you mean {path.parent / close[0]}?" if close else "; check the path"))
    raise DataError(f"{path}: no such file; check the path")


def format_of(path: Path) -> str:
    """csv, json or parquet, by the file's ending (.gz set aside); DataError for other endings."""
    ending = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if ending not in FORMATS or (path.suffix == ".gz" and FORMATS[ending] == "parquet"):
        known = " ".join(FORMATS)
        raise DataError(f"{path}: unknown file ending {path.suffix or '(none)'}; known are {known}, and the text formats with .gz")
    return FORMATS[ending]


@dataclass(frozen=True)
class TextScan:
    """What the bytes of a text file hold. `lines` counts a last line without line end too.

    integers: below the first line there are delimiters and integers alone, each as 7 would be written: not +7, 07, 7.0 or " 7".
    """

    path: Path
    lines: int
    quotes: bool
    line_end: str
    first_line: str
    integers: bool = False


def open_text(path: Path) -> IO[bytes]:
    """The bytes of a text file, unpacked when it ends in .gz."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def scan_text(path: Path) -> TextScan:
    """Read a text file once as bytes. Raises DataError when it is empty, holds NUL bytes, mixes line ends or cannot be unpacked."""
    lines = crlf = 0
    quotes, integers = False, True
    last = b""
    try:
        with open_text(path) as file:
            first = file.readline(1 << 20)
            chunk, before = first, b"\n\n"
            marks = [mark for mark in _MARKS if mark in first]
            while chunk:
                if b"\0" in chunk:
                    line = lines + chunk[: chunk.index(b"\0")].count(b"\n") + 1
                    raise DataError(f"{path} line {line}: holds a NUL byte; the file is damaged, or UTF-16: convert it to UTF-8")
                quotes = quotes or b'"' in chunk
                if last == b"\r" or b"\r" in chunk:
                    crlf += chunk.count(b"\r\n") + (last == b"\r" and chunk[:1] == b"\n")
                lines += int(np.count_nonzero(np.frombuffer(chunk, np.uint8) == _LF))
                if chunk is not first and integers:
                    integers = _plain_integers(before + chunk, marks)
                last, before = chunk[-1:], (before + chunk[-2:])[-2:]
                chunk = file.read(_CHUNK)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file") from None
    if not last:
        raise DataError(f"{path}: the file is empty; give a file with a header and rows")
    if crlf not in (0, lines):
        raise DataError(f"{path}: {crlf} of {lines} lines end in CRLF, the others in LF; convert it to one kind of line end")
    text = first.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").rstrip("\r\n")
    if "\r" in text:
        raise DataError(f"{path} line 1: lines end in CR alone; convert them to LF")
    return TextScan(path, lines + (last != b"\n"), quotes, "\r\n" if crlf else "\n", text, integers)


def _plain_integers(text: bytes, marks: Sequence[int]) -> bool:
    """Whether `text`, its first two bytes apart, is digits and `marks` alone, and no number of several digits begins with 0."""
    block = np.frombuffer(text, np.uint8)
    apart = (block - _ZERO) > 9  # wraps round below 0
    if np.count_nonzero(apart[2:]) != sum(np.count_nonzero(block[2:] == mark) for mark in marks):
        return False
    leading = np.flatnonzero(apart[:-2] & (block[1:-1] == _ZERO))
    return bool(apart[2:][leading].all())


def unused_control(path: Path) -> tuple[str, int]:
    """A control character that the file does not hold, and the length of its longest line in bytes: for reading whole lines."""
    unused = [1, 2, 3, 4, 5, 6, 7, 8, 14, 15, 16, 17]
    longest = carried = 0
    with open_text(path) as file:
        while chunk := file.read(_CHUNK):
            unused = [code for code in unused if bytes([code]) not in chunk]
            ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10)
            if len(ends):
                longest = max(longest, carried + int(ends[0]), int(np.diff(ends).max(initial=0)))
                carried = len(chunk) - int(ends[-1])
            else:
                carried += len(chunk)
    if not unused:
        raise DataError(f"{path}: holds control characters of every kind; it is not a text file")
    return chr(unused[0]), max(longest, carried)


def close_name(name: str, columns: Sequence[str]) -> str:
    """`; did you mean "x"?` when a column is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, columns, 1, 0.5)
    return f'; did you mean "{close[0]}"?' if close else ""
