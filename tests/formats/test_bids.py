"""A cohort goes to disk and comes back the same; what is wrong with one is told line by line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ichnos.cli.main import run
from ichnos.cohort import EXAMS, Cohort, Patient
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti
from ichnos.formats.bids_check import validate
from ichnos.volume import Volume

DIRECTIONS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])


def image(frames: int = 0, seed: int = 0) -> Volume:
    shape = (6, 5, 4, frames) if frames else (6, 5, 4)
    return Volume(
        np.random.default_rng(seed).integers(-1000, 900, shape).astype(np.int16),
        np.diag([2.0, 2.0, 5.0, 1.0]),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a cohort of two, with every exam, truth and predictions."""
    root = tmp_path / "cohort"
    patients = [
        Patient(
            "A1", "north", "train", facts={"age_years": 71.0, "sex": "F", "onset_to_ct_h": 1.75, "note": None}
        ),
        Patient(
            "B2",
            "south",
            "test",
            facts={"age_years": 64.0, "sex": "M", "onset_to_ct_h": None, "note": "a\tb"},
        ),
    ]
    bids.write_cohort(patients, root, name="two", columns={"age_years": {"Units": "year"}})
    for seed, patient in enumerate(patients):
        for exam in EXAMS:
            path = bids.write_exam(root, patient.id, exam, image(4 if exam == "diffusion" else 0, seed))
            if exam == "diffusion":
                bids.write_gradients(path, np.array([0.0, 1000, 1000, 1000]), DIRECTIONS)
        mask = image(seed=seed).map_array(lambda a: a > 500)
        bids.write_derivative(
            root,
            patient.id,
            mask,
            pipeline="truth",
            label="haematoma",
            kind="dseg",
            sidecar={"labels": {"ICH": 1}},
        )
    bids.write_pipeline(root, "truth")
    return root


def test_a_cohort_comes_back_as_it_went(root: Path) -> None:
    cohort = bids.read_cohort(root)
    a, b = cohort
    assert (a.id, a.centre, a.split, b.id, b.centre, b.split) == (
        "A1",
        "north",
        "train",
        "B2",
        "south",
        "test",
    )
    assert a.facts == {"age_years": 71.0, "sex": "F", "onset_to_ct_h": 1.75, "note": None}
    assert b.facts == {"age_years": 64.0, "sex": "M", "onset_to_ct_h": None, "note": "a b"}
    assert tuple(a.exams) == EXAMS
    assert a.targets["haematoma"].name == "sub-A1_ses-baseline_label-haematoma_dseg.nii.gz"
    assert np.array_equal(nifti.load(a.exam("followup")).array, image(seed=0).array)
    bvals, bvecs = bids.read_gradients(a.exam("diffusion"))
    assert bvals.tolist() == [0, 1000, 1000, 1000]
    assert np.allclose(bvecs, DIRECTIONS)
    assert validate(root) == []


def test_writing_again_changes_no_byte(root: Path) -> None:
    before = (root / "participants.tsv").read_bytes()
    bids.write_participants(bids.read_cohort(root), root)
    assert (root / "participants.tsv").read_bytes() == before


def test_places_are_those_of_the_layout() -> None:
    places = [bids.exam_path("r", "X", exam).as_posix() for exam in EXAMS]
    assert places == [
        "r/sub-X/ses-baseline/ct/sub-X_ses-baseline_ct.nii.gz",
        "r/sub-X/ses-followup/ct/sub-X_ses-followup_ct.nii.gz",
        "r/sub-X/ses-mri/anat/sub-X_ses-mri_FLAIR.nii.gz",
        "r/sub-X/ses-mri/anat/sub-X_ses-mri_T1w.nii.gz",
        "r/sub-X/ses-mri/dwi/sub-X_ses-mri_dwi.nii.gz",
    ]
    with pytest.raises(UsageError, match="letters and digits"):
        bids.exam_path("r", "../X", "ct")


def test_manual_targets_come_before_made_ones_and_predictions_must_be_named(root: Path) -> None:
    mask = image().map_array(lambda a: a > 0)
    predicted = bids.write_derivative(
        root, "A1", mask, pipeline="prediction", label="leukoaraiosis", kind="probseg"
    )
    assert "leukoaraiosis" not in bids.read_cohort(root).patients[0].targets
    assert bids.read_cohort(root, pipelines=["prediction"]).patients[0].targets == {
        "leukoaraiosis": predicted
    }
    manual = bids.write_derivative(root, "A1", mask, pipeline="manual", label="haematoma", kind="mask")
    assert bids.read_cohort(root).patients[0].targets["haematoma"] == manual


fact = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=False, width=16), st.text(max_size=12))


@given(st.dictionaries(st.sampled_from(["age_years", "sex", "note", "scale"]), fact, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_fact_survives_the_table(tmp_path: Path, facts: dict[str, str | float | None]) -> None:
    bids.write_participants([Patient("A", facts=facts), Patient("B")], tmp_path)
    cohort = bids.read_cohort(tmp_path)
    assert [p.id for p in cohort] == ["A", "B"]
    for name, value in facts.items():
        back = cohort.patients[0].facts[name]
        if isinstance(value, float):
            assert back == (None if np.isnan(value) else pytest.approx(value, rel=1e-9))
        elif value is None:
            assert back is None
        elif value.isalpha() and value.isascii() and value.lower() not in ("nan", "inf", "infinity"):
            assert back == value


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no description": (
        lambda r: (r / "dataset_description.json").unlink(),
        "error: dataset_description.json: is missing",
    ),
    "a broken description": (
        lambda r: (r / "dataset_description.json").write_text("{"),
        "error: dataset_description.json: is not JSON",
    ),
    "no ignore file": (lambda r: (r / ".bidsignore").unlink(), "warning: .bidsignore"),
    "no table": (lambda r: (r / "participants.tsv").unlink(), "error: participants.tsv"),
    "a patient without a row": (
        lambda r: shutil.copytree(r / "sub-A1", r / "sub-C3"),
        "error: sub-C3: has no row",
    ),
    "a row without a folder": (
        lambda r: shutil.rmtree(r / "sub-B2"),
        "error: sub-B2: is in participants.tsv and has no folder",
    ),
    "an odd name": (
        lambda r: (r / "sub-A1/ses-baseline/ct/scan.nii.gz").write_bytes(b"x"),
        "warning: sub-A1/ses-baseline/ct/scan.nii.gz",
    ),
    "an empty file": (
        lambda r: bids.exam_path(r, "A1", "ct").write_bytes(b""),
        "sub-A1_ses-baseline_ct.nii.gz: .*empty",
    ),
    "a lost sidecar": (
        lambda r: bids.exam_path(r, "A1", "ct").with_name("sub-A1_ses-baseline_ct.json").unlink(),
        "has no JSON file",
    ),
    "a lost gradient table": (
        lambda r: next(r.rglob("sub-A1*.bvec")).unlink(),
        "error: .*dwi.nii.gz: .*no .*bvec",
    ),
    "a short gradient table": (
        lambda r: next(r.rglob("sub-A1*.bval")).write_text("0 1000"),
        "do not belong together",
    ),
    "long directions": (
        lambda r: bids.write_gradients(bids.exam_path(r, "A1", "diffusion"), np.full(4, 1e3), 2 * DIRECTIONS),
        "length 1",
    ),
    "two frames of CT": (
        lambda r: nifti.save(image(2), bids.exam_path(r, "A1", "ct")),
        "error: .*_ct.nii.gz: has 2 frames",
    ),
    "a target elsewhere": (
        lambda r: nifti.save(image().padded((1, 0, 0), (0, 0, 0)), next(r.rglob("sub-A1*dseg.nii.gz"))),
        "grid",
    ),
    "an undescribed pipeline": (
        lambda r: (r / "derivatives/other").mkdir(),
        "error: derivatives/other/.*json: is missing",
    ),
    "a target in the wrong folder": (
        lambda r: next(r.rglob("sub-A1*dseg.nii.gz")).rename(
            r / "derivatives/truth/sub-B2/ses-baseline/sub-A1_ses-baseline_label-x_dseg.nii.gz"
        ),
        "lies outside sub-A1/ses-baseline",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_is_one_line(name: str, root: Path) -> None:
    spoil, expected = BROKEN[name]
    spoil(root)
    lines = [str(finding) for finding in validate(root)]
    assert len(lines) == 1, lines
    assert "\n" not in lines[0]
    assert re.search(expected, lines[0]), lines[0]


def test_a_table_that_cannot_be_read_is_refused(root: Path) -> None:
    table = root / "participants.tsv"
    good = table.read_text()
    cases = {
        "participant_id in the first place": good.replace("participant_id\t", "id\t"),
        "more fields": good + "sub-C\ta\tb\tc\td\te\tf\tg\n",
        "letters and digits": good.replace("sub-A1", "sub-A-1"),
        "split 'training'": good.replace("\ttrain\t", "\ttraining\t"),
        "more than once": good.replace("sub-B2", "sub-A1"),
    }
    for reason, text in cases.items():
        table.write_text(text)
        with pytest.raises(InputRefused, match=reason):
            bids.read_cohort(root)
    with pytest.raises(InputRefused, match=r"participants\.tsv"):
        bids.read_cohort(root / "sub-A1")
    with pytest.raises(InputRefused, match="not a folder"):
        validate(root / "absent")


def test_descriptions_name_what_made_them(root: Path) -> None:
    raw = json.loads((root / "dataset_description.json").read_text())
    derived = json.loads((root / "derivatives/truth/dataset_description.json").read_text())
    assert (raw["DatasetType"], derived["DatasetType"]) == ("raw", "derivative")
    assert derived["GeneratedBy"][0]["Name"] == "ichnos truth"
    assert json.loads((root / "participants.json").read_text())["age_years"] == {"Units": "year"}


def test_a_cohort_of_others_is_read(root: Path) -> None:
    assert isinstance(bids.read_cohort(root), Cohort)
    (root / "participants.tsv").write_text("participant_id\tage\r\nsub-A1\t71\r\nsub-B2\tn/a\r\n")
    a, b = bids.read_cohort(root)
    assert (a.centre, a.split, a.facts, b.facts) == ("", "", {"age": 71.0}, {"age": None})


def test_inspect_tells_what_a_cohort_holds_and_what_is_wrong(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(root)]) == 0
    assert "cohort of 2 patients, centres north, south" in capsys.readouterr().out
    next(root.glob("sub-A1/ses-baseline/ct/*.nii.gz")).write_bytes(b"")
    assert run(["inspect", str(root), "--json"]) == 2
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [f["level"] for f in findings if f["path"].endswith("_ct.nii.gz")] == ["error"]
