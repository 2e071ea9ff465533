"""Diffusion in DICOM: gradients point where they did on the scanner; too few directions are left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.diffusion_series import B_VALUE, SIX_DIRECTIONS, build_diffusion, inside_of
from builders.head import head_hu
from builders.series import Quirks, build_series
from ichnos.audit.exams import exams_in
from ichnos.audit.pairing import pair_exams
from ichnos.errors import InputRefused
from ichnos.formats import bids, nifti
from ichnos.formats.dicom import series_in
from ichnos.formats.dicom.diffusion import converted_diffusion
from ichnos.transfer.tractography.gradients import gradients_beside

pytest.importorskip("dcm2niix")
LATER = {"date": "20260320"}


def stroke_patient(folder: Path, *dates: str) -> None:
    for date in dates:
        build_series(head_hu(), folder / date, Quirks(header={"date": date, "seed": date}))


@pytest.mark.parametrize("manufacturer", ["SIEMENS", "Philips", "unknown"])
def test_every_volume_keeps_its_gradient_in_world_axes(tmp_path: Path, manufacturer: str) -> None:
    build_diffusion(tmp_path / "dwi", manufacturer=manufacturer)
    (series,) = series_in(tmp_path / "dwi")
    assert len(series.whole) == 7 * len(series.files)  # the first acquisition alone is one stack of slices
    image = converted_diffusion(series.whole, tmp_path / "work")
    volume = nifti.load(image)
    table = gradients_beside(image, affine=volume.affine)
    assert volume.array.shape[3] == len(table.b_values) == 7
    for k in range(7):
        number = inside_of(0) - int(volume.array[..., k].max())  # which volume it is
        assert table.b_values[k] == (B_VALUE if number else 0)
        if number:
            ras = SIX_DIRECTIONS[number - 1] * [-1, -1, 1]
            assert abs(float(table.directions[k] @ ras)) == pytest.approx(1, abs=1e-3)


def test_the_acquired_series_is_paired_and_its_maps_are_not(tmp_path: Path) -> None:
    stroke_patient(tmp_path / "in", "20260301")
    build_diffusion(tmp_path / "in" / "dwi", header=LATER)
    build_diffusion(tmp_path / "in" / "adc", SIX_DIRECTIONS[:0], description="ep2d_diff_ADC", header=LATER)
    found = exams_in(tmp_path / "in")
    assert sorted(exam.exam for exam in found.exams) == ["ct", "diffusion"]
    done = pair_exams(found, tmp_path / "out")
    assert done.counts["diffusion"] == 1
    (patient,) = done.cohort
    b_values, vectors = bids.read_gradients(patient.exam("diffusion"))
    assert sorted(b_values) == [0.0, *[B_VALUE] * 6]
    assert vectors.shape == (7, 3)
    assert "left_out" not in patient.facts


def test_the_series_with_most_images_is_taken(tmp_path: Path) -> None:
    stroke_patient(tmp_path / "in", "20260301")
    build_diffusion(tmp_path / "in" / "a", SIX_DIRECTIONS[:3], description="diff_trio", header=LATER)
    build_diffusion(tmp_path / "in" / "b", description="diffusion_six", header=LATER)
    done = pair_exams(exams_in(tmp_path / "in"), tmp_path / "out")
    assert done.counts["diffusion"] == 1


def test_too_few_directions_leave_the_other_partners_as_they_are(tmp_path: Path) -> None:
    stroke_patient(tmp_path / "in", "20260301", "20260302")
    opposite = [*SIX_DIRECTIONS[:3], *-SIX_DIRECTIONS[:3]]  # six images of three directions
    build_diffusion(tmp_path / "in" / "dwi", opposite, header=LATER)
    done = pair_exams(exams_in(tmp_path / "in"), tmp_path / "out")
    assert (done.counts["followup"], done.counts["diffusion"]) == (1, 0)
    (patient,) = done.cohort
    assert "diffusion: a diffusion series has 3 directions" in str(patient.facts["left_out"])
    assert "ct_to_diffusion_h" not in patient.facts


def test_where_no_partner_is_left_the_patient_is_named_as_a_failure(tmp_path: Path) -> None:
    stroke_patient(tmp_path / "in", "20260301")
    build_diffusion(tmp_path / "in" / "dwi", SIX_DIRECTIONS[:3], header=LATER)
    done = pair_exams(exams_in(tmp_path / "in"), tmp_path / "out")
    assert len(done.cohort) == 0
    assert "3 directions" in done.failures[0].why


def test_a_series_without_gradients_is_refused(tmp_path: Path) -> None:
    files = build_series(head_hu(), tmp_path / "ct")
    with pytest.raises(InputRefused, match="found 0 images with gradients"):
        converted_diffusion(files, tmp_path / "work")
