"""Tables that a person fills in, landmarks and overruled verdicts: any encoding, named refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from ichnos.errors import InputRefused
from ichnos.transfer.landmarks import read_landmarks
from ichnos.transfer.sheet import read_overrides

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "latin-1")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", ["\t", ";", ","])
def test_landmarks_may_come_from_any_spreadsheet(encoding: str, delimiter: str, tmp_path: Path) -> None:
    lines = ("exam name x y z", "ct Höcker 1.5 -2 3", "flair Höcker 4 5 6")
    table = tmp_path / "marks.tsv"
    table.write_bytes("\n".join(line.replace(" ", delimiter) for line in lines).encode(encoding))
    marks = read_landmarks(table)
    assert {exam: {n: p.tolist() for n, p in named.items()} for exam, named in marks.items()} == {
        "ct": {"Höcker": [1.5, -2.0, 3.0]},
        "flair": {"Höcker": [4.0, 5.0, 6.0]},
    }


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("pet\ttip\t1\t2\t3", "line 3: exam 'pet' is unknown; write one of ct, "),
        ("ct\ttip\t1\t2\tdeep", "line 3: x, y and z are expected to be numbers, in mm"),
        ("ct\ttip\t1\t2\t", "line 3: x, y and z are expected"),
        ("ct\ttip\t1\t2\tnan", "line 3: x, y and z are expected"),
        ("ct\ttip\t1\tinf\t3", "line 3: x, y and z are expected"),
        ("ct\ttip\t1\t2\t3\t4", "line 3, has more fields"),
    ],
)
def test_a_landmark_that_is_none_is_refused_with_its_line(row: str, why: str, tmp_path: Path) -> None:
    table = tmp_path / "marks.tsv"
    table.write_text(f"exam\tname\tx\ty\tz\nct\tbase\t0\t0\t0\n{row}\n")
    with pytest.raises(InputRefused, match=why):
        read_landmarks(table)


def test_a_table_of_landmarks_without_heights_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "marks.tsv"
    table.write_text("exam\tname\tx\ty\nct\ttip\t1\t2\n")
    with pytest.raises(InputRefused, match="needs the columns exam, name, x, y, z"):
        read_landmarks(table)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", ["\t", ";", ","])
def test_overrides_may_come_from_any_spreadsheet(encoding: str, delimiter: str, tmp_path: Path) -> None:
    table = tmp_path / "override.tsv"
    lines = ("id verdict who why", "1-tract pass Müller angeschaut", "2-tract fail  ")
    table.write_bytes("\n".join(line.replace(" ", delimiter) for line in lines).encode(encoding))
    assert read_overrides(table) == {"1-tract": ("pass", "Müller angeschaut"), "2-tract": ("fail", "")}


def test_an_override_may_leave_out_who_and_why_but_not_the_verdict(tmp_path: Path) -> None:
    table = tmp_path / "override.tsv"
    assert read_overrides(table) == {}  # no file, nothing overruled
    table.write_text("id\tverdict\n1-tract\tfail\n")
    assert read_overrides(table) == {"1-tract": ("fail", "")}
    table.write_text("id\twho\n1-tract\tme\n")
    with pytest.raises(InputRefused, match="needs the columns id and verdict"):
        read_overrides(table)
    table.write_text("id\tverdict\n1-tract\tpass\n2-tract\tPASS\n")
    with pytest.raises(InputRefused, match="line 3: verdict 'PASS' is unknown; write pass or fail"):
        read_overrides(table)
