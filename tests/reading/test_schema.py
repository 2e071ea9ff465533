"""The schema in docs is that of the records that are written."""

from __future__ import annotations

import json
from pathlib import Path

from builders.readable_head import reading
from ichnos.api import save
from ichnos.reading import Record

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "reading.schema.json"


def test_the_published_schema_is_the_records_own() -> None:
    told = "docs/reading.schema.json is old; write Record.model_json_schema() to it"
    assert json.loads(SCHEMA.read_text()) == Record.model_json_schema(), told


def test_a_saved_record_comes_back(tmp_path: Path) -> None:
    result = reading()
    save(result, tmp_path)
    saved = Record.model_validate_json((tmp_path / "reading.json").read_bytes())
    assert saved.findings == result.record.findings
    assert all((tmp_path / file).is_file() for file in saved.masks.values())
