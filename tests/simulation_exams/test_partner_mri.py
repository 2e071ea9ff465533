"""The partner MRI shows its contrasts in its own pose, and its diffusion directions mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from builders.small_patient import small_patient
from ichnos.errors import InputRefused
from ichnos.simulation.exams.diffusion import (
    DiffusionProtocol,
    fsl_vectors,
    gradient_table,
    simulate_diffusion,
)
from ichnos.simulation.exams.mri import MriExam, MriProtocol, draw_mri_protocol, rician, simulate_mri
from ichnos.simulation.exams.truth import masks_on_grid
from ichnos.simulation.patient import VirtualPatient
from ichnos.volume import Volume


@pytest.fixture(scope="module")
def patient() -> VirtualPatient:
    return small_patient()


def imaged(patient: VirtualPatient, protocol: MriProtocol) -> tuple[MriExam, dict[str, Volume]]:
    exam = simulate_mri(patient, protocol, generator=torch.Generator().manual_seed(4))
    masks = masks_on_grid(
        patient,
        ("leukoaraiosis", "ventricles", "phe", "ich", "brain"),
        affine=exam.volume.affine,
        shape=exam.volume.shape,
        patient_from_exam=exam.patient_from_exam,
        thickness_mm=protocol.thickness_mm,
    )
    return exam, masks


@pytest.mark.parametrize("thickness", [4.5, 1.5])
def test_flair_shows_disease_and_oedema_bright_and_fluid_dark(
    patient: VirtualPatient, thickness: float
) -> None:
    protocol = MriProtocol(
        "flair", thickness_mm=thickness, pose_deg=(6, -3, 5), shift_mm=(5, -3, 8), angle_deg=-8.0, bias=0.05
    )
    exam, masks = imaged(patient, protocol)
    signal = exam.volume.array.astype(float)
    lesions = {name: np.median(signal[mask.array > 0]) for name, mask in masks.items()}
    clean = (masks["brain"].array > 0) & ~np.any(
        [masks[n].array > 0 for n in ("leukoaraiosis", "ventricles", "phe", "ich")], axis=0
    )
    white = np.median(signal[clean])
    assert lesions["leukoaraiosis"] > 1.3 * white
    assert lesions["phe"] > 1.2 * white
    assert lesions["ventricles"] < 0.4 * white


def test_t1_shows_white_above_grey_above_fluid(patient: VirtualPatient) -> None:
    exam, masks = imaged(
        patient, MriProtocol("t1", pixel_mm=1.5, thickness_mm=1.5, gap_mm=0.0, bias=0.0, noise=1.0)
    )
    signal = exam.volume.array.astype(float)
    where = exam.patient_from_exam.map(
        exam.volume.world(np.stack(np.meshgrid(*map(np.arange, exam.volume.shape), indexing="ij"), -1))
    )
    white = np.median(signal[np.linalg.norm(where - (30, 35, 0), axis=-1) < 6])
    cortex = np.median(
        signal[(np.abs(where[..., 0]) < 5) & (np.abs(where[..., 2]) < 5) & (np.abs(where[..., 1] - 75) < 2)]
    )
    assert white > 1.2 * cortex > 1.2 * np.median(signal[masks["ventricles"].array > 0])


def test_bias_field_and_noise_change_the_image_as_asked(patient: VirtualPatient) -> None:
    base = {"contrast": "t1", "pixel_mm": 2.0, "thickness_mm": 4.0, "gap_mm": 0.0}
    clean, biased, noisy = (
        imaged(patient, MriProtocol(**base, bias=b, noise=n))[0].volume.array.astype(float)
        for b, n in ((0, 0), (0.3, 0), (0, 6))
    )
    inside = clean > 200
    ratio = biased[inside] / clean[inside]
    assert ratio.std() > 0.1
    assert (noisy - clean)[inside].std() / 4 == pytest.approx(6.0, rel=0.2)


def test_noise_in_air_is_rician() -> None:
    air = rician(torch.zeros(200_000), sigma=3.0, generator=torch.Generator().manual_seed(0))
    assert float(air.mean()) == pytest.approx(3.0 * np.sqrt(np.pi / 2), rel=0.01)
    assert float(air.min()) >= 0


def test_drawn_flair_is_thick_or_isotropic_and_t1_isotropic() -> None:
    rng = np.random.default_rng(0)
    flair = [draw_mri_protocol("flair", rng=rng) for _ in range(200)]
    thick = [p for p in flair if p.thickness_mm >= 4]
    assert all(p.thickness_mm == 1.0 for p in flair if p not in thick)
    assert 0.6 < len(thick) / len(flair) < 0.9
    assert all(draw_mri_protocol("t1", rng=rng).thickness_mm == 1.0 for _ in range(20))


def test_fibres_run_where_the_gradient_table_says(patient: VirtualPatient) -> None:
    protocol = DiffusionProtocol(voxel_mm=4.0, noise=0.5, bias=0.0, pose_deg=(20.0, -10.0, 15.0))
    exam = simulate_diffusion(patient, protocol, generator=torch.Generator().manual_seed(1))
    axes = exam.volume.affine[:3, :3] / np.linalg.norm(exam.volume.affine[:3, :3], axis=0)
    along = exam.b_vectors.copy()
    if np.linalg.det(axes) > 0:
        along[:, 0] *= -1
    world = along @ axes.T  # back from FSL's convention
    b = exam.b_values / 1000
    centre = np.round(exam.volume.index((~exam.patient_from_exam).map(np.array([25.0, 35.0, 0.0])))).astype(
        int
    )
    signal = exam.volume.array[tuple(centre)].astype(float)
    design = -b[:, None] * np.stack(
        [world[:, i] * world[:, j] * (1 if i == j else 2) for i in range(3) for j in range(i, 3)], axis=1
    )
    fit = np.linalg.lstsq(np.c_[design, np.ones(len(b))], np.log(np.maximum(signal, 1)), rcond=None)[0]
    tensor = np.zeros((3, 3))
    tensor[np.triu_indices(3)] = fit[:6]
    values, vectors = np.linalg.eigh(tensor + np.triu(tensor, 1).T)
    expected = (~exam.patient_from_exam).matrix[:3, :3] @ np.array([0.0, 0.0, 1.0])
    assert np.degrees(np.arccos(min(1.0, abs(vectors[:, 2] @ expected)))) < 5
    assert values[2] > 1.5 * values[1]
    assert 0.5 < values.mean() < 1.2  # 1e-3 mm2/s


def test_diffusion_has_its_shells_and_refuses_a_patient_without_fibres(patient: VirtualPatient) -> None:
    protocol = DiffusionProtocol(
        b_values=(1000, 2000), directions=30, unweighted=3, voxel_mm=6.0, distortion_mm=3.0
    )
    exam = simulate_diffusion(patient, protocol, generator=torch.Generator().manual_seed(1))
    assert exam.volume.array.shape[3] == 63
    assert np.unique(exam.b_values, return_counts=True)[1].tolist() == [3, 30, 30]
    means = [exam.volume.array[..., exam.b_values == b].mean() for b in (0, 1000, 2000)]
    assert means[0] > means[1] > means[2]
    with pytest.raises(InputRefused, match="made without fibres"):
        simulate_diffusion(small_patient(fibres=False), protocol, generator=torch.Generator())


def test_directions_spread_over_the_sphere_and_turn_into_fsl() -> None:
    b, g = gradient_table(DiffusionProtocol(directions=32))
    assert np.allclose(np.linalg.norm(g[b > 0], axis=1), 1)
    cosines = np.abs(g[b > 0] @ g[b > 0].T) - np.eye(32)
    assert np.degrees(np.arccos(cosines.max())) > 12
    assert np.allclose(fsl_vectors(g, np.diag([2.0, 2.0, 2.0, 1.0]))[:, 0], -g[:, 0])
    assert np.allclose(fsl_vectors(g, np.diag([-2.0, 2.0, 2.0, 1.0]))[:, 0], -g[:, 0])
