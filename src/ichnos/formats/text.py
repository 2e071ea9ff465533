"""Text that others wrote: JSON files and tables, in whatever encoding, bounded in size, refused by name."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from ichnos.errors import InputRefused, foreign
from ichnos.formats.limits import DEFAULT_LIMITS, MIB, Limits

_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
CSV_DELIMITERS = ",;\t"  # as spreadsheets of all countries write "CSV"
TSV_DELIMITERS = "\t;,"  # tabs as documented, or what a spreadsheet made of them
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MAX_FIELD = 1 << 20  # characters; Python's own limit is 131,072


def read_text(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> str:
    """Return a file's text: UTF-8, UTF-16 with a byte order mark, or else Latin-1."""
    path = Path(path)
    if not path.is_file():
        raise InputRefused(f"{foreign(path)} is not an ordinary file; give a text file")
    size = path.stat().st_size
    limits.check("table_mib", size / MIB, f"{foreign(path)} has {size / MIB:,.0f} MiB")
    return decoded(path.read_bytes(), name=path)


def decoded(content: bytes, *, name: object) -> str:
    """Return bytes as text.

    >>> decoded("id\\tage".encode("utf-16"), name="a.tsv") == decoded(b"id\\tage", name="a.tsv")
    True
    """
    if b"\0" in content and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputRefused(f"{foreign(name)} is not text: it holds zero bytes; save it as UTF-8")
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            try:
                return content[len(mark) :].decode(encoding)
            except UnicodeDecodeError as error:
                raise InputRefused(
                    f"{foreign(name)} is not {encoding} text ({foreign(error)}); save it as UTF-8"
                ) from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_json(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Return the content of a JSON file, or refuse it by name."""
    try:
        return json.loads(read_text(path, limits=limits))
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"{foreign(path)} is not JSON ({foreign(error)}); correct or remove it") from None


def read_table(
    path: str | Path, *, delimiters: str = "\t", limits: Limits = DEFAULT_LIMITS
) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and rows of a table as text; a row with more fields than columns is refused.

    Of several `delimiters`, the one that the first line holds most often divides the columns.
    """
    text = read_text(path, limits=limits)
    delimiter = _delimiter_of(text, delimiters)
    previous = csv.field_size_limit(_MAX_FIELD)
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
        columns = [str(name) for name in table.fieldnames or []]
        rows = list(table)
    except csv.Error as error:
        raise InputRefused(
            f"{foreign(path)} is not a table ({foreign(error)}); separate its columns by {_NAMES[delimiter]}"
        ) from None
    finally:
        csv.field_size_limit(previous)
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise InputRefused(
            f"{foreign(path)} has the column {foreign(repr(twice[0]))} more than once; give each its own name"
        )
    for number, row in enumerate(rows, start=2):
        if None in row:
            raise InputRefused(f"{foreign(path)}, line {number}, has more fields than there are columns")
    return columns, rows


def _delimiter_of(text: str, choices: str) -> str:
    """Return which of some delimiters divides the first line of a table; the first of them if none does.

    >>> _delimiter_of("id;sources\\n1;a,b,c", ",;")
    ';'
    """
    header = text.partition("\n")[0]
    return max(choices, key=header.count)
