"""`ichnos fit`: where models are written, what their checks hold, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders.tiny_model import tiny_model
from ichnos.cli.main import run
from ichnos.clinical.injury import INJURY_GRADES
from ichnos.errors import InputRefused
from ichnos.learning.fit import parts
from ichnos.learning.fit.outcome_cases import Anatomy
from ichnos.learning.fit.parts import FitPlan, FitResources, fit_model, outcome_model_of
from ichnos.learning.fit.readings import CALIBRATED, fazekas_of_readings, volumes_of_readings
from ichnos.models.store import SHIPPED
from ichnos.prognosis.outcome import load_outcome_model
from ichnos.prognosis.volume import load_volume_calibration
from ichnos.simulation.patient import SITES


def readings(count: int = 60) -> list[dict[str, Any]]:
    """Return rows as `read_patient` gives them: volumes read a tenth too small, grades by the volume."""
    rows = []
    for k in range(count):
        true_ml = 0.5 + k
        row: dict[str, Any] = {f"{target}_ml": 0.9 * true_ml for target in CALIBRATED}
        row |= {f"{target}_true_ml": true_ml for target in CALIBRATED}
        row |= {f"{region}_ml": true_ml for region in ("periventricular", "deep")}
        grade = min(3, k // 15)
        rows.append(row | {"periventricular_grade": grade, "deep_grade": grade, "status": "found"})
    return rows


def anatomies() -> list[Anatomy]:
    grades = tuple(INJURY_GRADES)
    numbered = [(site, k) for site in SITES for k in range(8)]
    return [Anatomy(s, 5.0 + 6 * k, grades[k % len(grades)], 0.2 * k, 0.5 * k) for s, k in numbered]


def test_intervals_and_grades_come_from_what_was_read() -> None:
    volumes = volumes_of_readings(readings())
    low, high = volumes.interval_ml("ICH", 45.0) or (0, 0)
    assert low <= 50 <= high * 1.02
    fazekas = fazekas_of_readings(readings())
    assert "within one grade" in fazekas.cohort
    assert fazekas.deep.probabilities(0.5)[0] > 0.5 > fazekas.deep.probabilities(55.0)[0]


def test_a_patient_who_could_not_be_looked_at_teaches_no_grade() -> None:
    rows = [*readings(), readings()[0] | {"deep_grade": 3, "status": "could not look"}]
    assert fazekas_of_readings(rows) == fazekas_of_readings(readings())


def test_an_outcome_model_is_checked_on_a_trial_it_was_not_fitted_on() -> None:
    model = outcome_model_of(anatomies(), 700, command="ichnos fit here")
    assert model.command == "ichnos fit here"
    assert model.validation["patients"] > 400
    assert 0.5 < model.validation["mrs_0_3_auc"] < 1


@pytest.fixture
def fake_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure nobody: rows come at once."""
    given = {"readings": readings(), "outcome": [vars(a) for a in anatomies()]}
    monkeypatch.setattr(parts, "_measured", lambda task, cases, settings, name, resources: given[name])


@pytest.mark.usefixtures("fake_measures")
def test_every_part_lies_beside_the_models_weights(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny")
    plan = FitPlan(parts=("outcome", "volumes", "fazekas"), trial_patients=700)
    fitted = fit_model(model, plan, FitResources(tmp_path / "work"))
    assert [one.part for one in fitted] == ["outcome", "volumes", "fazekas"]
    assert all(one.file.parent == model.folder for one in fitted)
    assert load_volume_calibration(model.folder) is not None
    assert load_outcome_model(model.folder).mrs.patients > 400
    assert "outcome.CARD.md" in {file.name for file in model.folder.iterdir()}
    assert "Outcome" not in (model.folder / "CARD.md").read_text(), "the model's own card stays"


def test_the_defaults_growth_and_outcome_have_folders_of_their_own(tmp_path: Path) -> None:
    default: Any = SimpleNamespace(folder=SHIPPED / "multi")
    assert parts._home(default, "expansion") == SHIPPED / "expansion"
    assert parts._home(SimpleNamespace(folder=tmp_path), "expansion") == tmp_path  # type: ignore[arg-type]


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(InputRefused, match="20 patients"):
        volumes_of_readings(readings(5))


@pytest.mark.usefixtures("fake_measures")
def test_the_verb_writes_prints_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(tiny_model(tmp_path / "tiny").folder)
    assert run(["fit", model, "--parts", "volumes", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert Path(row["file"]).is_file()
    assert (tmp_path / "build" / "fit" / "settings.yaml").is_file()
    assert run(["fit", model, "--parts", "growht"]) == 3
    assert run(["fit", "nowhere"]) == 2
    assert run(["fit", model, "--parts", "growth,outcome", "--heads", "there"]) == 3
    for verb in (["fit", model], ["stress", model, "-o", str(tmp_path / "s")], ["train", "default"]):
        capsys.readouterr()
        assert run([*verb, "--heads", str(tmp_path / "mistyped")]) == 2, "not the MNI head instead"
        assert "mistyped holds no label maps" in " ".join(capsys.readouterr().err.split())
