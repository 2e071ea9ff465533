"""Tables that people save from a spreadsheet: any encoding is read, a wrong file is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ichnos.errors import InputRefused
from ichnos.evidence.leakage import read_training
from ichnos.evidence.pack.predictions import PREDICTIONS_TABLE, _claims, read_prediction_rows
from ichnos.transfer.landmarks import read_landmarks
from ichnos.transfer.sheet import read_overrides

READERS: dict[str, tuple[Callable[[Path], Any], str, str]] = {  # file -> reader, delimiter, content
    "training.csv": (read_training, ",", "image,patient,split\nMüller.nii,1,train\n"),
    PREDICTIONS_TABLE: (lambda path: read_prediction_rows(path.parent), ",", "patient,centre\n1,Würzburg\n"),
    "override.tsv": (read_overrides, "\t", "id\tverdict\twho\n1-tract\tpass\tDr. Müller\n"),
    "landmarks.tsv": (read_landmarks, "\t", "exam\tname\tx\ty\tz\nct\tFüllung\t1\t2\t3\n"),
}


@pytest.mark.parametrize("name", READERS)
def test_every_encoding_of_a_spreadsheet_gives_the_same(name: str, tmp_path: Path) -> None:
    read, _, text = READERS[name]
    found = []
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "latin-1"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        found.append(repr(read(tmp_path / name)))
    assert len(set(found)) == 1
    assert "ü" in found[0]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "content", [b"\x00\x01\x02", b"a,b\n1,2,3\n", b"a\tb\n1\t2\t3\n", b"a,a\n1,2\n", b""]
)
def test_what_is_no_such_table_is_refused_by_name(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputRefused, match=name.partition(".")[0]):
        READERS[name][0](tmp_path / name)


@pytest.mark.parametrize("content", ["[1]", '{"dice": "high"}', '{"dice": [1]}', "{"])
def test_claims_that_are_no_numbers_are_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "claims.json").write_text(content)
    with pytest.raises(InputRefused, match="claims"):
        _claims(tmp_path)
