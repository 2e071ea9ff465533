"""A simulated cohort on disk: whole, repeatable, resumable, its truth apart, its tables true."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from builders.small_patient import small_patient
from ichnos.cli.main import run
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti, open_scan
from ichnos.runs import Summary
from ichnos.simulation.check.measure import measure, prevalence
from ichnos.simulation.check.page import write_sheet
from ichnos.simulation.cohort import write as cohort_module
from ichnos.simulation.cohort.design import (
    PRESETS,
    Group,
    RenderSettings,
    Subject,
    free_design,
    preset,
    subjects,
)
from ichnos.simulation.cohort.write import simulate_cohort
from ichnos.volume import Affine, centroid_mm, volume_ml


@pytest.fixture(scope="module")
def quick() -> pytest.MonkeyPatch:
    """Make every patient the small one: what is tested here is what is done with patients."""
    patch = pytest.MonkeyPatch()
    patch.setattr(
        cohort_module,
        "make_subject",
        lambda subject, render, cache=None: small_patient(bleeds=subject.has_haematoma),
    )
    yield patch
    patch.undo()


@pytest.fixture(scope="module")
def made(quick: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    out = tmp_path_factory.mktemp("cohort") / "out"
    design = free_design(patients=2, centres=["A", "C"], exams=["ct", "followup", "flair", "diffusion"])
    return out, simulate_cohort(design, out, seed=3, render=RenderSettings(dicom=True), progress=False)


def hashes(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file() and ".ichnos" not in p.parts
    }


def test_cohort_reads_back_with_every_exam_and_target(made: tuple[Path, Summary]) -> None:
    out, summary = made
    assert not summary.failures
    cohort = bids.read_cohort(out)
    assert [p.centre for p in cohort] == ["A", "C"]
    for patient in cohort:
        assert set(patient.exams) == {"ct", "followup", "flair", "diffusion"}
        assert set(patient.targets) == {"haematoma", "leukoaraiosis", "tract", "expansion"}
        assert patient.facts["age_years"] == 66.0
    b, g = bids.read_gradients(cohort.patients[0].exam("diffusion"))
    assert len(b) == len(g) >= 32


def test_truth_is_under_derivatives_alone(made: tuple[Path, Summary]) -> None:
    out, _ = made
    for name in ("expanded", "expansion_probability", "site", "ich_ml", "injury", "source"):
        assert name not in (out / "participants.tsv").read_text()
        assert name in (out / "derivatives" / "truth" / "participants.tsv").read_text()
    outside = [p for p in out.rglob("*.nii.gz") if "derivatives" not in p.parts]
    assert len(outside) == 8
    provenance = json.loads((out / "derivatives" / "truth" / "provenance.json").read_text())
    assert provenance["settings"]["seed"] == 3
    assert len(list(out.rglob("provenance.json"))) == 1


def test_volumes_of_the_masks_are_those_of_the_table(made: tuple[Path, Summary]) -> None:
    out, _ = made
    for row in bids.read_participants(out / "derivatives" / "truth"):
        who = row["participant_id"]
        for exam, ending in (("ct", "ml"), ("followup", "followup_ml")):
            blood = nifti.load(
                bids.derivative_path(out, who, pipeline="truth", label="haematoma", kind="dseg", exam=exam)
            )
            for label, name in enumerate(("ich", "ivh", "phe"), 1):
                assert volume_ml(blood.with_array(blood.array == label)) == pytest.approx(
                    float(row[f"{name}_{ending}"]), abs=6e-4
                )
        flair = nifti.load(
            bids.derivative_path(out, who, pipeline="truth", label="leukoaraiosis", kind="mask", exam="flair")
        )
        assert volume_ml(flair) == pytest.approx(float(row["leukoaraiosis_flair_ml"]), abs=6e-4)


def test_left_is_label_one_and_lies_left_in_every_exam(made: tuple[Path, Summary]) -> None:
    out, _ = made
    for exam in ("ct", "diffusion"):
        tract = nifti.load(
            bids.derivative_path(out, "001", pipeline="truth", label="tract", kind="dseg", exam=exam)
        )
        left, right = (centroid_mm(tract.with_array(tract.array == label)) for label in (1, 2))
        assert left[0] < right[0] - 30


def test_transforms_bring_the_exams_together(made: tuple[Path, Summary]) -> None:
    out, _ = made
    folder = out / "derivatives" / "truth" / "sub-001"
    on_ct = centroid_mm(
        nifti.load(bids.derivative_path(out, "001", pipeline="truth", label="leukoaraiosis", kind="mask"))
    )
    flair = nifti.load(
        bids.derivative_path(out, "001", pipeline="truth", label="leukoaraiosis", kind="mask", exam="flair")
    )
    ct_from_flair = Affine(np.loadtxt(folder / "sub-001_from-flair_to-ct_xfm.txt"))
    assert np.linalg.norm(ct_from_flair.map(centroid_mm(flair)) - on_ct) < 1.5
    assert {p.name.split("_")[1] for p in folder.glob("*_xfm.txt")} == {
        "from-followup",
        "from-flair",
        "from-diffusion",
    }


def test_dicom_series_is_the_same_scan(made: tuple[Path, Summary]) -> None:
    out, _ = made
    scan = open_scan(out / "dicom" / "sub-001" / "ct")
    image = nifti.load(bids.exam_path(out, "001", "ct"))
    same = scan.volume.on_grid(image, interpolation="linear", fill=-1000.0).array
    # then the series is sheared, its slices elsewhere than the NIfTI's
    tilted = abs(scan.acquisition.tilt_deg) > 0.5
    assert tilted or scan.volume.shape == image.shape
    inside = np.s_[100:400, 100:400, 4:-4]
    soft = (image.array[inside] > 0) & (image.array[inside] < 80)
    difference = np.asarray(same)[inside][soft] - image.array[inside][soft]
    assert np.abs(np.median(difference)) < (2.0 if tilted else 0.5)
    assert np.corrcoef(np.asarray(same)[inside].ravel(), image.array[inside].ravel())[0, 1] > (
        0.85 if tilted else 0.999
    )
    assert scan.acquisition.manufacturer in {"SIEMENS", "GE MEDICAL SYSTEMS"}
    assert scan.facts or scan.acquisition.slice_thickness_mm


def test_same_seed_same_bytes_and_a_failed_patient_is_made_by_the_next_call(
    made: tuple[Path, Summary], quick: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, _ = made
    out = tmp_path / "out"
    design = free_design(patients=2, centres=["A", "C"], exams=["ct", "followup", "flair", "diffusion"])
    make = cohort_module.make_subject

    def once_failing(subject: Subject, render: RenderSettings, cache: Path | None = None):
        if subject.id == "002":
            raise InputRefused("the power failed")
        return make(subject, render)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort_module, "make_subject", once_failing)
        broken = simulate_cohort(design, out, seed=3, render=RenderSettings(dicom=True), progress=False)
    assert [f.id for f in broken.failures] == ["002"]
    assert not (out / "sub-002").exists()
    whole = simulate_cohort(design, out, seed=3, render=RenderSettings(dicom=True), progress=False)
    assert whole.done_now == 1
    assert hashes(out) == hashes(first)


def test_other_settings_or_a_foreign_folder_are_refused_and_nothing_is_overwritten(
    made: tuple[Path, Summary], tmp_path: Path
) -> None:
    out, _ = made
    before = hashes(out)
    design = free_design(patients=2, centres=["A", "C"], exams=["ct", "followup", "flair", "diffusion"])
    with pytest.raises(UsageError, match="begun with other settings"):
        simulate_cohort(design, out, seed=4, render=RenderSettings(dicom=True), progress=False)
    assert hashes(out) == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        simulate_cohort(design, tmp_path, seed=3, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_realism_sheet_shows_slices_and_figures_against_the_published(made: tuple[Path, Summary]) -> None:
    out, _ = made
    found = measure(out)
    assert found.growth_dice.n == 2  # both patients expand, and the map of the oracle is there
    assert 0.5 < found.growth_dice.value <= 1
    assert prevalence(found, "C").value == 1.0
    assert prevalence(found, "C").n == 1
    assert 25 < np.median(found.hu["brain without lesion"]) < 42
    text = write_sheet(out, found).read_text()
    assert "20.4, IQR 21.9 (Yu 2025)" in text
    assert text.count("data:image/png;base64,") == 2 * 4  # three windows and the labels
    assert "odds ratio of anticoagulation" in text
    assert text.count("<svg") == 4
    assert "oracle AUC for expansion, this cohort" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_finishes_and_validates_with_real_patients(name: str, tmp_path: Path) -> None:
    design = preset(name, scale=0.0001 if name != "demo" else 0.3)  # one patient of each group
    summary = simulate_cohort(
        design,
        tmp_path / "out",
        seed=1,
        render=RenderSettings(voxel_mm=2.0, oracle_samples=4),
        progress=False,
    )
    assert not summary.failures
    cohort = bids.read_cohort(tmp_path / "out")
    assert len(cohort) == len(design.groups)
    for patient, group in zip(cohort, design.groups, strict=True):
        assert set(patient.exams) == set(group.exams)
        assert {"haematoma", "leukoaraiosis", "tract"} <= set(patient.targets)
    assert "<svg" in write_sheet(tmp_path / "out").read_text()


# ---- designs
# ------------------------------------------------------------------------------------------


def test_presets_have_the_published_sizes_and_shares() -> None:
    sizes = {name: sum(g.patients for g in design.groups) for name, design in PRESETS.items()}
    assert sizes == {
        "demo": 3,
        "yu2025": 1103 + 513 + 404,
        "ryu2025": 482 + 390 + 867 + 100,
        "murray2024": 599,
        "abramova2024": 30,
    }
    yu = subjects(preset("yu2025"), seed=1)
    for centre, split, share in (("D", "external", 0.218), ("E", "external", 0.200)):
        here = [s for s in yu if s.centre == centre and s.split == split]
        assert np.mean([s.expands for s in here]) == pytest.approx(share, abs=1 / len(here))
    train = [s for s in yu if s.split == "train"]
    assert len(train) == 1103
    assert np.mean([s.expands for s in train]) == pytest.approx(0.198, abs=0.003)
    assert not any(s.has_haematoma for s in subjects(preset("ryu2025"), seed=1))
    assert all(s.least_ich_ml == 30 for s in subjects(preset("murray2024"), seed=1) if s.trial)


def test_subjects_are_the_same_for_a_seed_and_each_has_a_seed_of_its_own() -> None:
    design = preset("yu2025", scale=0.05)
    first, again, other = (subjects(design, seed=s) for s in (1, 1, 2))
    assert [asdict(s) for s in first] == [asdict(s) for s in again]
    assert [s.seed for s in first] != [s.seed for s in other]
    assert len({s.seed for s in first}) == len(first)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: free_design(patients=0, centres=["A"], exams=["ct"]), "0 patients"),
        (lambda: free_design(patients=3, centres=["Z"], exams=["ct"]), "no simulated centre 'Z'"),
        (lambda: free_design(patients=3, centres=[], exams=["ct"]), "no centre was given"),
        (lambda: free_design(patients=3, centres=["A"], exams=["flair"]), "give ct and any of"),
        (lambda: free_design(patients=3, centres=["A"], exams=["ct", "pet"]), "give ct and any of"),
        (lambda: free_design(patients=3, centres=["A"], exams=["ct"], haematoma_share=2), "from 0 to 1"),
        (lambda: preset("smith2030"), "no preset 'smith2030'"),
        (lambda: preset("demo", scale=0), "scale of 0"),
        (lambda: RenderSettings(voxel_mm=0), "voxels of 0 mm"),
    ],
)
def test_wrong_wishes_are_refused_by_name(call, says: str) -> None:
    with pytest.raises((UsageError, InputRefused), match=says):
        call()


def test_free_designs_spread_over_centres_and_splits() -> None:
    design = free_design(patients=31, centres=["A", "B", "C"], exams=["flair", "ct"])
    assert sum(g.patients for g in design.groups) == 31
    assert {g.centre for g in design.groups} == {"A", "B", "C"}
    assert {g.split for g in design.groups} == {"train", "validation", "test"}
    assert design.groups[0].exams == ("ct", "flair")
    assert Group(1, "A").haematoma_share == 1.0


def test_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", str(tmp_path / "a"), "--patients", "0"]) == 3
    assert "--patients '0' cannot be used" in capsys.readouterr().err
    assert run(["simulate", str(tmp_path / "a")]) == 3
    assert run(["simulate", str(tmp_path / "a"), "--preset", "demo", "--patients", "4"]) == 3
    capsys.readouterr()
    assert run(["simulate", str(tmp_path / "a"), "--preset", "demo", "--centres", "A", "--exams", "ct"]) == 3
    assert "leave out --centres, --exams beside --preset" in capsys.readouterr().err
    assert run(["simulate", str(tmp_path / "a"), "--patients", "4", "--scale", "0.5"]) == 3
    assert "leave out --scale beside --patients" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert run(["simulate", str(tmp_path / "nowhere"), "--check"]) == 2
