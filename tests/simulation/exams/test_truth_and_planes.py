"""The truth on the grids of exams: masks that keep millilitres, sides and places; DICOM slices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from builders.small_patient import BLEED_MM, SHAPE, SIDE_MM, small_patient
from ichnos.errors import InputRefused
from ichnos.simulation.exams.ct import CtExam
from ichnos.simulation.exams.dicom_export import header, planes
from ichnos.simulation.exams.pose import HeadMotion, rigid
from ichnos.simulation.exams.scanners import SCANNERS, CtProtocol
from ichnos.simulation.exams.truth import (
    BASELINE_MASKS,
    FOLLOWUP_MASKS,
    fine_masks,
    growth_on_grid,
    masks_on_grid,
    volumes_ml,
)
from ichnos.simulation.patient import VirtualPatient
from ichnos.volume import Affine, Volume, volume_ml

NAMES = ("ich", "leukoaraiosis", "tract_left", "brain")


@pytest.fixture(scope="module")
def patient() -> VirtualPatient:
    """Return a patient of ellipsoids who bleeds on the left."""
    return small_patient(fibres=False)


def _grid(step_mm: float = 6.0) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return an exam's grid over the whole patient, with pixels of 2 mm."""
    affine = np.diag([2.0, 2.0, step_mm, 1.0])
    count = int(SHAPE[2] * SIDE_MM / step_mm)
    affine[:3, 3] = [-99.0, -109.0, -(count - 1) * step_mm / 2]
    return affine, (100, 110, count)


def _masks(
    patient: VirtualPatient,
    names: tuple[str, ...] = NAMES,
    *,
    pose: Affine | None = None,
    motion: HeadMotion | None = None,
    step_mm: float = 6.0,
) -> dict[str, Volume]:
    affine, shape = _grid(step_mm)
    return masks_on_grid(
        patient,
        names,
        affine=affine,
        shape=shape,
        patient_from_exam=pose or Affine(np.eye(4)),
        thickness_mm=step_mm,
        motion=motion,
    )


def _middle(mask: Volume) -> np.ndarray:
    return mask.world(np.argwhere(mask.array > 0)).mean(0)


@pytest.fixture(scope="module")
def straight(patient: VirtualPatient) -> dict[str, Volume]:
    """Return masks of an exam that lies as the patient does."""
    return _masks(patient)


def test_every_mask_of_the_baseline_has_a_name_of_its_own(patient: VirtualPatient) -> None:
    assert not set(BASELINE_MASKS) & set(FOLLOWUP_MASKS)
    masks = fine_masks(patient, (*BASELINE_MASKS, *FOLLOWUP_MASKS))
    assert masks.shape == (len(BASELINE_MASKS) + 3, *SHAPE)
    assert masks.dtype == torch.bool


def test_a_follow_up_that_was_not_simulated_is_refused(patient: VirtualPatient) -> None:
    with pytest.raises(InputRefused, match="simulate it with followup=True"):
        fine_masks(replace(patient, followup=None), ["ich_followup"])


def test_oedema_and_blood_exclude_each_other_and_the_brain_holds_its_ventricles(
    patient: VirtualPatient,
) -> None:
    phe, ich, brain, ventricles = fine_masks(patient, ["phe", "ich", "brain", "ventricles"])
    assert bool(phe.any())
    assert not bool((phe & ich).any())
    assert bool(brain[ventricles].all())


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_keeps_its_millilitres_on_the_exams_grid(
    patient: VirtualPatient, straight: dict[str, Volume], name: str
) -> None:
    fine_ml = float(fine_masks(patient, [name]).sum()) * patient.voxel_ml
    assert volume_ml(straight[name]) == pytest.approx(fine_ml, rel=0.08)


def test_blood_lies_where_it_was_put(straight: dict[str, Volume]) -> None:
    assert _middle(straight["ich"]) == pytest.approx(np.array(BLEED_MM), abs=1.5)
    assert _middle(straight["tract_left"])[0] < -15


@pytest.mark.parametrize("step_mm", [1.0, 2.5, 3.0, 5.0, 6.0])
def test_a_turned_head_shows_its_masks_turned_and_as_large(patient: VirtualPatient, step_mm: float) -> None:
    pose = rigid(rotation_deg=(5, -9, 12), shift_mm=(3, -4, 2))
    affine, count = np.diag([1.0, 1.0, step_mm, 1.0]), int(50 / step_mm)
    affine[:3, 3] = (~pose).map(np.array([BLEED_MM]))[0] - [25, 25, (count - 1) * step_mm / 2]
    turned = masks_on_grid(
        patient,
        ["ich"],
        affine=affine,
        shape=(51, 51, count),
        patient_from_exam=pose,
        thickness_mm=step_mm,
    )["ich"]
    assert pose.map(_middle(turned)) == pytest.approx(np.array(BLEED_MM), abs=0.7)
    fine_ml = float(fine_masks(patient, ["ich"]).sum()) * patient.voxel_ml
    assert volume_ml(turned) == pytest.approx(fine_ml, rel=0.045)


def test_masks_do_not_depend_on_what_else_is_asked_for(
    patient: VirtualPatient, straight: dict[str, Volume]
) -> None:
    alone = _masks(patient, ("leukoaraiosis",))["leukoaraiosis"]
    assert np.array_equal(alone.array, straight["leukoaraiosis"].array)


def test_a_head_that_moves_by_nothing_lies_still(
    patient: VirtualPatient, straight: dict[str, Volume]
) -> None:
    still = HeadMotion(np.zeros((_grid()[1][2], 4, 3)))
    assert np.array_equal(_masks(patient, motion=still)["ich"].array, straight["ich"].array)


def test_a_head_that_moved_is_seen_where_it_was(patient: VirtualPatient, straight: dict[str, Volume]) -> None:
    away = np.zeros((_grid()[1][2], 4, 3))
    away[..., 0] = 6.0
    moved = _masks(patient, motion=HeadMotion(away))
    assert _middle(moved["ich"])[0] == pytest.approx(_middle(straight["ich"])[0] - 6.0, abs=0.3)


def test_thicker_slices_keep_the_millilitres(patient: VirtualPatient, straight: dict[str, Volume]) -> None:
    thick = _masks(patient, step_mm=10.0)
    assert volume_ml(thick["ich"]) == pytest.approx(volume_ml(straight["ich"]), rel=0.06)


def test_volumes_are_listed_by_name(straight: dict[str, Volume]) -> None:
    listed = volumes_ml(straight)
    assert set(listed) == {f"{name}_ml" for name in NAMES}
    assert listed["ich_ml"] == pytest.approx(volume_ml(straight["ich"]), abs=1e-3)


def test_the_map_of_growth_is_certain_in_the_clot_and_absent_where_it_was_not_made(
    patient: VirtualPatient, straight: dict[str, Volume]
) -> None:
    affine, shape = _grid()

    def growth(of: VirtualPatient) -> Volume | None:
        return growth_on_grid(
            of, affine=affine, shape=shape, patient_from_exam=Affine(np.eye(4)), thickness_mm=6.0
        )

    chance = growth(patient)
    assert chance is not None
    assert 0 <= float(chance.array.min()) <= float(chance.array.max()) <= 1
    assert float(np.median(chance.array[straight["ich"].array > 0])) > 0.95
    assert np.allclose(chance.array * 250, np.round(chance.array * 250), atol=1e-3)
    assert growth(replace(patient, growth_probability=None)) is None


@pytest.fixture(scope="module")
def exam() -> CtExam:
    """Return an exam whose every voxel has a value of its own."""
    scanner = SCANNERS["ge"]
    affine = np.array([[0.5, 0, 0, -4], [0, 0.5, 0, -5], [0, 0, 5, -10], [0, 0, 0, 1.0]])
    array = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)
    return CtExam(Volume(array, affine), CtProtocol(scanner, scanner.brain), Affine(np.eye(4)))


def test_slices_hold_every_voxel_at_its_place(exam: CtExam) -> None:
    slices = planes(exam)
    assert len(slices) == 4
    for plane in slices:
        rows, columns = plane.hu.shape
        for row, column in ((0, 0), (rows - 1, columns - 1), (1, 2)):
            x, y, z = np.round(exam.volume.index((plane.affine @ [column, row, 0, 1])[:3])).astype(int)
            assert plane.hu[row, column] == exam.volume.array[x, y, z]
        assert plane.affine[0, 0] < 0  # columns run to the left
        assert plane.affine[1, 1] < 0  # rows run to the back


def test_slices_rise_from_feet_to_head_with_unit_normals(exam: CtExam) -> None:
    heights = [plane.affine[2, 3] for plane in planes(exam)]
    assert heights == sorted(heights)
    assert all(np.linalg.norm(plane.affine[:3, 2]) == pytest.approx(1.0) for plane in planes(exam))


def test_a_header_names_the_scanner_and_never_a_person(exam: CtExam, patient: VirtualPatient) -> None:
    first = header(exam, "007", "ct", patient.latent)
    assert (first.manufacturer, first.kernel) == ("GE MEDICAL SYSTEMS", "STANDARD")
    assert first.patient_name == "Virtual^007"
    assert first == header(exam, "007", "ct", patient.latent)
    assert header(exam, "007", "followup", patient.latent).seed != first.seed
