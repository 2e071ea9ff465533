"""A simulated CT shows what is in the patient, where it is, with the values and the noise that were asked
for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from builders.small_patient import BLEED_MM, BLOOD_HU, small_patient
from ichnos.errors import InputRefused
from ichnos.simulation.exams.ct import CtExam, plan_ct, simulate_ct
from ichnos.simulation.exams.pose import HeadMotion, rigid, slice_stack_affine
from ichnos.simulation.exams.scanners import CENTRES, SCANNERS, CtProtocol, draw_protocol
from ichnos.simulation.exams.truth import (
    BASELINE_MASKS,
    FOLLOWUP_MASKS,
    growth_on_grid,
    masks_on_grid,
    volumes_ml,
)
from ichnos.simulation.patient import Tissue, VirtualPatient
from ichnos.volume import Volume, centroid_mm, volume_ml

PLAIN = CtProtocol(
    scanner=SCANNERS["siemens"],
    kernel=SCANNERS["siemens"].brain,
    matrix=256,
    field_of_view_mm=230.0,
    noise_hu=3.0,
    beam_hardening=0.0,
)
POSES = [
    {},
    {"pose_deg": (-12.0, 4.0, 9.0), "shift_mm": (6.0, -4.0)},
    {"tilt_deg": 17.0, "pose_deg": (-5.0, 0.0, 0.0)},
    {"tilt_deg": -14.0, "thickness_mm": 3.0, "step_mm": 3.0, "pose_deg": (3.0, -3.0, -6.0)},
]


@pytest.fixture(scope="module")
def patient() -> VirtualPatient:
    return small_patient()


@pytest.fixture(scope="module", params=POSES)
def posed(request: pytest.FixtureRequest, patient: VirtualPatient) -> CtExam:
    return scan(patient, replace(PLAIN, **request.param))


def scan(patient: VirtualPatient, protocol: CtProtocol, *, seed: int = 1, followup: bool = False) -> CtExam:
    return simulate_ct(patient, protocol, generator=torch.Generator().manual_seed(seed), followup=followup)


def truth(patient: VirtualPatient, exam: CtExam, names: tuple[str, ...] = BASELINE_MASKS):
    return masks_on_grid(
        patient,
        names,
        affine=exam.volume.affine,
        shape=exam.volume.shape,
        patient_from_exam=exam.patient_from_exam,
        thickness_mm=exam.protocol.thickness_mm,
        motion=exam.motion,
    )


def test_same_seed_gives_the_same_bytes_and_another_seed_another_image(patient: VirtualPatient) -> None:
    first, again, other = (scan(patient, PLAIN, seed=s) for s in (1, 1, 2))
    assert first.volume.array.tobytes() == again.volume.array.tobytes()
    assert np.array_equal(first.volume.affine, again.volume.affine)
    assert first.volume.array.tobytes() != other.volume.array.tobytes()


def test_truth_lies_where_the_image_shows_it_with_its_volume_and_left_is_left(
    patient: VirtualPatient, posed: CtExam
) -> None:
    masks = truth(patient, posed)
    mask, brain = masks["ich"].array > 0, masks["brain"].array > 0
    place = posed.patient_from_exam.map(centroid_mm(masks["ich"]))
    assert np.linalg.norm(place - np.array(BLEED_MM)) < 1.0
    assert place[0] < -20
    bright = (posed.volume.array > 48) & (posed.volume.array < 80) & brain
    assert 2 * np.count_nonzero(mask & bright) / (np.count_nonzero(mask) + np.count_nonzero(bright)) > 0.85
    assert posed.volume.is_orthogonal
    volumes = volumes_ml(masks)
    assert volumes["ich_ml"] == pytest.approx(patient.truth.ich_ml, rel=0.06)
    assert volumes["leukoaraiosis_ml"] == pytest.approx(patient.truth.leukoaraiosis_ml, rel=0.10)
    assert volumes["tract_left_ml"] == pytest.approx(volumes["tract_right_ml"], rel=0.05)


def test_tissues_have_their_hu(patient: VirtualPatient) -> None:
    exam = scan(patient, PLAIN)
    hu, affine = exam.volume.array, exam.patient_from_exam
    where = affine.map(
        exam.volume.world(
            np.stack(np.meshgrid(*[np.arange(n) for n in exam.volume.shape], indexing="ij"), -1)
        )
    )

    def at(point: tuple[float, float, float], radius: float) -> float:
        return float(np.median(hu[np.linalg.norm(where - np.array(point), axis=-1) < radius]))

    assert 27 <= at((30, 35, 0), 6) <= 33  # white matter
    assert 3 <= at((10, 0, 12), 4) <= 12  # ventricle
    assert at(BLEED_MM, 8) == pytest.approx(BLOOD_HU, abs=2)
    assert (
        at((-28, 23.5, 0), 3) < at((30, 35, 0), 6) - 3
    )  # oedema before the bleed is darker than white matter
    cortex = float(
        np.median(
            hu[(np.abs(where[..., 2]) < 4) & (np.abs(where[..., 0]) < 4) & (np.abs(where[..., 1] - 75) < 2.5)]
        )
    )
    assert 5 <= cortex - at((30, 35, 0), 6) <= 11
    bone = hu[
        (np.abs(where[..., 2]) < 4) & (np.abs(np.hypot(where[..., 0] / 72, where[..., 1] / 88) - 1) < 0.012)
    ]
    assert 800 <= np.median(bone) <= 1800
    assert hu[where[..., 1] > 105].max() < -900  # air in front of the face


def test_a_thin_plate_fades_by_the_share_of_the_slice_it_fills(patient: VirtualPatient) -> None:
    index = torch.arange(patient.shape[2])
    tissue = torch.where(
        (patient.baseline.tissue == Tissue.CORTEX) | (patient.baseline.tissue == Tissue.VENTRICLE),
        int(Tissue.WHITE),
        patient.baseline.tissue,
    )
    plate = (tissue == Tissue.WHITE) & (index == 45).view(1, 1, -1)
    tissue = torch.where(plate, int(Tissue.DIPLOE), tissue).to(torch.uint8)
    plain = small_patient(bleeds=False)
    maps = replace(plain.baseline, tissue=tissue, leukoaraiosis=torch.zeros(tissue.shape))
    with_plate = replace(plain, baseline=maps)
    peak, total = [], []
    for thickness in (1.0, 8.0):
        protocol = replace(
            PLAIN, thickness_mm=thickness, step_mm=thickness, noise_hu=0.0, cover_mm=(0.0, 0.0), table=False
        )
        exam = scan(with_plate, protocol)
        column = exam.volume.array[88:168, 88:168].mean(axis=(0, 1)) - 30.0
        height = exam.patient_from_exam.map(exam.volume.world([(128, 128, k) for k in range(len(column))]))[
            :, 2
        ]
        near = np.abs(height - (-89.0 + 2 * 45)) < 20
        peak.append(column[near].max())
        total.append(column[near].sum() * thickness)
    assert 500 < total[0] < 1500  # 2 mm of about 500 HU
    assert total[1] == pytest.approx(total[0], rel=0.15)  # however it is sliced
    assert peak[0] > 2.0 * peak[1]


def test_noise_has_the_level_and_the_texture_of_filtered_backprojection(patient: VirtualPatient) -> None:
    quiet, loud = (scan(patient, replace(PLAIN, noise_hu=n), seed=3).volume.array for n in (0.0, 4.0))
    middle = loud.shape[2] // 2
    difference = (loud.astype(float) - quiet)[96:160, 96:160, middle - 3 : middle + 3]
    assert 2.4 < difference.std() < 5.0
    power = np.mean([np.abs(np.fft.fft2(difference[..., k])) ** 2 for k in range(6)], axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64, 230 / 256), np.fft.fftfreq(64, 230 / 256)))
    low, mid, high = (
        power[(frequency > a) & (frequency < b)].mean() for a, b in ((0.0, 0.04), (0.12, 0.25), (0.48, 0.56))
    )
    assert mid > 1.5 * low
    assert mid > 3 * high


def test_a_sharp_kernel_shows_finer_edges_than_a_smooth_one(patient: VirtualPatient) -> None:
    gradients = []
    for kernel in (SCANNERS["ge"].brain, SCANNERS["ge"].sharp):
        exam = scan(patient, replace(PLAIN, kernel=kernel, noise_hu=0.0))
        gradients.append(
            np.abs(np.diff(exam.volume.array[:, 128, exam.volume.shape[2] // 2].astype(float))).max()
        )
    assert gradients[1] > 1.1 * gradients[0]


def test_beam_hardening_darkens_between_dense_bones_and_nothing_without_it(patient: VirtualPatient) -> None:
    plain = small_patient(bleeds=False)
    tissue = plain.baseline.tissue.clone()
    tissue[26:38, 48:62, 25:65] = int(Tissue.BONE)
    tissue[62:74, 48:62, 25:65] = int(Tissue.BONE)
    dense = replace(plain, baseline=replace(plain.baseline, tissue=tissue))
    without, with_it = (scan(dense, replace(PLAIN, noise_hu=0.0, beam_hardening=b)) for b in (0.0, 1.0))
    change = with_it.volume.array.astype(float) - without.volume.array
    index = np.round(
        with_it.volume.index((~with_it.patient_from_exam).map(np.array([[0.0, 0.0, 0.0], [0.0, 50.0, 0.0]])))
    ).astype(int)
    between, before = (change[i - 5 : i + 6, j - 5 : j + 6, k].mean() for i, j, k in index)
    assert between < -3
    assert between < before - 3


def test_offset_shifts_soft_tissue_and_padding_fills_the_corners(patient: VirtualPatient) -> None:
    protocol = replace(PLAIN, noise_hu=0.0, scanner=SCANNERS["ge"])
    plain, shifted = (scan(patient, replace(protocol, offset_hu=o)).volume.array for o in (0.0, 8.0))
    middle = plain.shape[2] // 2
    assert np.median(shifted[110:146, 110:146, middle].astype(int) - plain[110:146, 110:146, middle]) == 8
    assert set(np.unique(plain[0, 0])) == {-2000}
    assert plain[128, 2, middle] >= -1024


def test_followup_shows_the_grown_bleed_in_another_pose(patient: VirtualPatient) -> None:
    exam = scan(patient, replace(PLAIN, pose_deg=(-9.0, 2.0, 5.0)), followup=True)
    grown = truth(patient, exam, FOLLOWUP_MASKS)["ich_followup"]
    assert volume_ml(grown) == pytest.approx(patient.truth.followup_ich_ml, rel=0.06)
    inside = exam.volume.array[grown.array > 0]
    assert np.median(inside) == pytest.approx(BLOOD_HU, abs=3)
    with pytest.raises(InputRefused, match="simulated without a follow-up"):
        scan(small_patient(followup=False), PLAIN, followup=True)


def test_growth_map_is_a_probability_on_the_ct_grid(patient: VirtualPatient) -> None:
    exam = scan(patient, PLAIN)
    oracle = growth_on_grid(
        patient,
        affine=exam.volume.affine,
        shape=exam.volume.shape,
        patient_from_exam=exam.patient_from_exam,
        thickness_mm=5.0,
    )
    assert oracle is not None
    assert 0 <= oracle.array.min() <= oracle.array.max() <= 1
    assert volume_ml(oracle) == pytest.approx(
        0.5 * (patient.truth.ich_ml + patient.truth.followup_ich_ml), rel=0.05
    )


def test_motion_doubles_edges_and_metal_streaks(patient: VirtualPatient) -> None:
    still = scan(patient, replace(PLAIN, noise_hu=0.0)).volume.array.astype(float)
    moved = scan(patient, replace(PLAIN, noise_hu=0.0, motion_mm=5.0)).volume.array.astype(float)
    streaked = scan(patient, replace(PLAIN, noise_hu=0.0, metal=True)).volume.array.astype(float)
    assert 20 < np.abs(moved - still).max()
    assert np.median(np.abs(moved - still)[100:156, 100:156]) < 5
    assert streaked.max() > 2500
    assert np.abs(streaked - still)[90:166, 90:166].std() > 3


def test_the_truth_of_a_restless_head_lies_where_the_slices_show_it(patient: VirtualPatient) -> None:
    exam = scan(patient, replace(PLAIN, noise_hu=0.0, motion_mm=5.0))
    assert exam.motion is not None
    assert np.abs(exam.motion.away).max() > 2
    follows = truth(patient, exam, ("brain", "ich"))
    stays = truth(patient, replace(exam, motion=None), ("brain", "ich"))
    rim = {name: (follows[name].array > 0) != (stays[name].array > 0) for name in follows}
    skull = exam.volume.array > 300
    assert np.count_nonzero(skull & (follows["brain"].array > 0)) < 0.8 * np.count_nonzero(
        skull & (stays["brain"].array > 0)
    )
    assert rim["brain"].mean() > 0.002
    assert volume_ml(follows["ich"]) == pytest.approx(volume_ml(stays["ich"]), rel=0.03)


def test_the_oracle_of_a_restless_head_lies_around_the_blood_that_its_slices_show(
    patient: VirtualPatient,
) -> None:
    exam = scan(patient, replace(PLAIN, noise_hu=0.0, motion_mm=5.0))
    blood = truth(patient, exam, ("ich",))["ich"]

    def sure(motion: HeadMotion | None) -> Volume:
        found = growth_on_grid(
            patient,
            affine=exam.volume.affine,
            shape=exam.volume.shape,
            patient_from_exam=exam.patient_from_exam,
            thickness_mm=exam.protocol.thickness_mm,
            motion=motion,
        )
        assert found is not None
        # in the small patient it is 1 in the blood and a half where blood will come
        return found.map_array(lambda a: a > 0.75)

    beside = [np.count_nonzero((blood.array > 0) != sure(motion).array) for motion in (exam.motion, None)]
    assert np.count_nonzero(blood.array) > 500
    assert beside[0] < 0.5 * beside[1], (
        f"voxels in which blood and a sure oracle differ, following the head and not: {beside}"
    )


@pytest.mark.parametrize("tilt", [-20.0, 0.0, 20.0])
def test_slices_are_orthogonal_or_sheared_and_tilt_tips_the_normal_forward(tilt: float) -> None:
    for sheared in (False, True):
        affine = slice_stack_affine(
            centre_mm=np.zeros(3),
            shape=(10, 10, 4),
            pixel_mm=0.5,
            step_mm=5.0,
            tilt_deg=tilt,
            sheared=sheared,
        )
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        normal /= np.linalg.norm(normal)
        assert np.sign(round(normal[1], 9)) == np.sign(tilt)
        assert affine[:3, 2] @ normal == pytest.approx(5.0)
        along = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
        assert np.allclose(along, (0, 0, 1) if sheared else normal)


def test_rigid_turns_about_its_point() -> None:
    turn = rigid(rotation_deg=(10, 20, 30), about_mm=(1, 2, 3))
    assert np.allclose(turn.map(np.array([1.0, 2.0, 3.0])), (1, 2, 3))
    assert np.allclose(turn.matrix[:3, :3] @ turn.matrix[:3, :3].T, np.eye(3))


def test_plans_cover_the_brain_from_below_to_above(patient: VirtualPatient) -> None:
    for pose in POSES:
        protocol = replace(PLAIN, **pose)
        plan = plan_ct(patient, protocol)
        brain = np.array([[x, y, z] for x in (-50, 0, 50) for y in (-60, 0, 60) for z in (-50, 0, 55)], float)
        inside = (~plan.patient_from_exam).map(brain)
        index = np.c_[inside, np.ones(len(inside))] @ np.linalg.inv(plan.affine).T[:, :3]
        assert (index > -0.5).all()
        assert (index < np.array(plan.shape) - 0.5).all()


def test_every_centre_draws_protocols_within_bounds() -> None:
    rng = np.random.default_rng(0)
    for centre in CENTRES.values():
        drawn = [draw_protocol(centre, rng=rng) for _ in range(60)]
        assert all(
            0.6 <= p.thickness_mm <= 7 and abs(p.offset_hu) <= 22 and abs(p.tilt_deg) <= 25 for p in drawn
        )
        assert {p.scanner.vendor for p in drawn} == {SCANNERS[name].vendor for name in centre.scanners}
    assert len({s.vendor for s in SCANNERS.values()}) == 4
