"""One loader of plain models: there, not there, damaged; and what is written comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from ichnos.errors import InputRefused
from ichnos.prognosis.fazekas import FAZEKAS_FILE, FazekasModel, OrdinalModel, load_fazekas_model
from ichnos.prognosis.growth import load_growth_model
from ichnos.prognosis.outcome import load_outcome_model
from ichnos.prognosis.store import first_plain, load_plain, load_plain_if_there, plain_text

ORDINAL = OrdinalModel(slope=2.0, cuts=(1.0, 3.0, 5.0))
MODEL = FazekasModel(cohort="nobody", periventricular=ORDINAL, deep=ORDINAL)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    (tmp_path / FAZEKAS_FILE).write_text(plain_text(MODEL), encoding="utf-8")
    assert load_plain(tmp_path / FAZEKAS_FILE, FazekasModel) == MODEL
    assert load_fazekas_model(tmp_path) == MODEL


def test_numbers_are_written_to_six_digits(tmp_path: Path) -> None:
    fine = MODEL.model_copy(update={"deep": OrdinalModel(slope=1.23456789, cuts=(1.0, 3.0, 5.0))})
    assert "1.23457" in plain_text(fine)
    assert "1.2345678" not in plain_text(fine)


def test_an_absent_file_is_none_or_refused_with_its_name(tmp_path: Path) -> None:
    assert load_plain_if_there(tmp_path / FAZEKAS_FILE, FazekasModel) is None
    with pytest.raises(InputRefused, match=r"holds no expansion.json, so there is no growth model"):
        load_growth_model(tmp_path)
    with pytest.raises(InputRefused, match=r"holds no outcome.json, so there is no outcome model"):
        load_outcome_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not json", "the whole file"),
        ('{"cohort": "x"}', "periventricular"),
        (plain_text(MODEL).replace('"cohort"', '"cohrt"'), "cohort"),
        (plain_text(MODEL).replace("2.0", "-2.0"), "must be positive"),
    ],
)
def test_a_damaged_file_is_refused_with_the_place(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / FAZEKAS_FILE
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputRefused, match=told):
        load_plain_if_there(file, FazekasModel)


def test_the_first_folder_with_the_file_wins(tmp_path: Path) -> None:
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    own.mkdir()
    shipped.mkdir()
    assert first_plain((own, shipped), FAZEKAS_FILE, FazekasModel) is None
    (shipped / FAZEKAS_FILE).write_text(plain_text(MODEL), encoding="utf-8")
    assert first_plain((own, shipped), FAZEKAS_FILE, FazekasModel) == MODEL
    other = MODEL.model_copy(update={"cohort": "us"})
    (own / FAZEKAS_FILE).write_text(plain_text(other), encoding="utf-8")
    assert first_plain((own, shipped), FAZEKAS_FILE, FazekasModel) == other
