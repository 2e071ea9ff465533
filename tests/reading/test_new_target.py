"""A target is added by one entry and its reader: a made-up one is followed from its truth to the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from builders.head import head_hu
from builders.readable_head import TARGETS as DRAWN
from builders.readable_head import head, model, rule
from builders.series import Quirks, build_series
from builders.small_patient import small_patient
from ichnos import targets
from ichnos.api import save_reading
from ichnos.cohort import Cohort, Patient
from ichnos.formats import bids, nifti, open_scan
from ichnos.formats.dicom_seg import read_seg, write_seg
from ichnos.inference import Predictor
from ichnos.learning.segmentation.target_files import target_degree, target_file, target_specs
from ichnos.models import Model, TargetSpec
from ichnos.reading import READERS, Finding, Measure, read_scan
from ichnos.reading.read import ReaderInputs
from ichnos.simulation.exams.truth import fine_masks
from ichnos.volume import Volume, volume_ml

SCAR = targets.Target(
    "scar",
    "Scar of an old haemorrhage",
    "scar",
    label_map="scar",
    codes=(4,),
    truth=("leukoaraiosis",),
    colour="#00ff88",
    reported=True,
    outlined=True,
    category=targets.TARGETS["ICH"].category,
    type=("SCAR", targets.PRIVATE_SCHEME, "Scar"),
    region=targets.TARGETS["ICH"].region,
    findings=("scar",),
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.TARGETS, "scar", SCAR)
    monkeypatch.setitem(READERS, "scar", _read_scar)


def _read_scar(given: ReaderInputs) -> Finding:
    volume = volume_ml(given.masks.named()["scar"])
    measure = Measure(name="scar_volume", label=SCAR.label, value=volume, unit="mL", reason="made up")
    return Finding(
        target="scar", status="read", sentence=f"Scar {volume:.1f} mL.", measures=(measure,), masks=("scar",)
    )


def _with_scar() -> Model:
    plain = model()
    drawn = (*plain.manifest.targets, TargetSpec(name="scar", group="scar"))
    return Model(plain.folder, plain.manifest.model_copy(update={"targets": drawn}))


def _rule_with_scar(tile: np.ndarray) -> np.ndarray:
    logits = rule(tile)
    return np.concatenate([logits, logits[:, [DRAWN.index("leukoaraiosis")]]], axis=1)


def test_its_simulated_truth_becomes_what_is_learnt(tmp_path: Path) -> None:
    patient = small_patient()
    truth = fine_masks(patient, targets.truth_masks("scar")).any(0).numpy()
    assert truth.any()
    ct = Volume(np.zeros(truth.shape, np.float32), patient.affine)
    labels = ct.with_array(truth.astype(np.uint8) * targets.label_values("scar")["scar"])
    bids.write_exam(tmp_path, "01", "ct", ct)
    bids.write_derivative(tmp_path, "01", labels, pipeline="truth", label="scar", kind="dseg")
    bids.write_cohort([Patient("01", "A", "train")], tmp_path, name="made")
    cohort: Cohort = bids.read_cohort(tmp_path)
    (spec,) = target_specs("scar")
    assert (spec.name, spec.group) == ("scar", "scar")
    (patient_on_disk,) = cohort
    assert "scar" in patient_on_disk.targets
    file = target_file(cohort, patient_on_disk, "scar", ("truth",))
    assert file is not None
    assert (target_degree(*file, nifti.load(patient_on_disk.exams["ct"])) == truth).all()


def test_it_is_read_saved_and_shown(tmp_path: Path) -> None:
    reading = read_scan(head(), Predictor(_with_scar(), backend=_rule_with_scar), name="made")
    finding = reading.finding("scar")
    assert finding.measure("scar_volume").value == pytest.approx(
        volume_ml(reading.masks.named()["scar"])  # type: ignore[union-attr]
    )
    save_reading(reading, tmp_path)
    record = json.loads((tmp_path / "reading.json").read_text())
    assert record["masks"]["scar"] == "scar.nii.gz"
    assert nifti.load(tmp_path / "scar.nii.gz").array.any()
    page = (tmp_path / "report.html").read_text()
    assert SCAR.colour in page
    assert finding.sentence in page
    assert page.count(SCAR.label) >= 2, "a tile and the legend name it"


def test_a_model_without_it_withholds_its_finding() -> None:
    reading = read_scan(head(), Predictor(model(), backend=rule), only=["scar"])
    assert reading.finding("scar").status == "withheld"
    assert "scar" in reading.finding("scar").sentence


def test_it_travels_in_a_segmentation_object(tmp_path: Path) -> None:
    build_series(head_hu(), tmp_path / "images", Quirks())
    scan = open_scan(tmp_path / "images")
    mask = scan.volume.map_array(lambda hu: hu > 50)
    write_seg(scan, {"scar": mask}, tmp_path / "seg.dcm")
    assert (read_seg(tmp_path / "seg.dcm", scan)["scar"].array == mask.array).all()
