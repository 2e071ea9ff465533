"""`ichnos train expansion` → `ichnos evaluate --model`: from a cohort to P(expansion) in a report, and to its
evidence. A rule on HU stands for the reader's network; everything else is as a user runs it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.growing_cohort import small_classifier, write_growing_cohort
from builders.readable_head import model, rule
from builders.tiny_model import NETWORK
from ichnos import networks
from ichnos.cli.main import run
from ichnos.inference import predict
from ichnos.models import load_model, save_model
from ichnos.reading import Record


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a model whose outlines are those of the rule."""
    monkeypatch.setattr(predict, "backend_for", lambda part, **how: rule)
    manifest = model().manifest.model_copy(update={"network": NETWORK})
    return save_model(tmp_path / "reader", networks.build(NETWORK.name, **NETWORK.arguments), manifest).folder


def test_from_a_cohort_to_evidence_in_two_commands(
    reader: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, trained, evidence = (str(tmp_path / name) for name in ("cohort", "trained", "evidence"))
    write_growing_cohort(Path(cohort), splits=("train",) * 8 + ("test",) * 4)
    (tmp_path / "own.yaml").write_text(
        json.dumps({"expansion": {"folds": 2, "classifier": small_classifier().model_dump(mode="json")}})
    )
    how = ["--from", str(reader), "--config", str(tmp_path / "own.yaml")]
    assert run(["train", "expansion", cohort, "-o", trained, *how, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["validation"].keys() == {"AUC out of fold"}
    weights = load_model(tmp_path / "trained" / "expansion").manifest
    assert "Trained on the outlines of the model that reads." in weights.limits
    listed = ["--training", f"{trained}.training/training.csv"]
    assert run(["evaluate", cohort, "--model", trained, "-o", evidence, *listed, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    judged = numbers["sections"]["expansion"]
    assert (judged["auc"]["n"], judged["auc"]["events"]) == (4, 2), "growth is taken from the true masks"
    assert "leakage_unproven" not in {flag["name"] for flag in numbers["flags"]}
    readings = sorted((tmp_path / "evidence" / "readings").glob("*/reading.json"))
    assert len(readings) == 4, "nobody is read who was trained on"
    record = Record.model_validate_json(readings[0].read_bytes())
    assert record.provenance is not None
    assert record.provenance.classifier_sha256 == weights.weights_sha256
    probability = record.finding("expansion").measure("expansion_probability").value
    assert isinstance(probability, float)
    page = readings[0].with_name("report.html").read_text(encoding="utf-8")
    assert f"Probability of expansion by the image classifier: {probability:.0f} %" in page
    assert weights.weights_sha256[:16] in page
