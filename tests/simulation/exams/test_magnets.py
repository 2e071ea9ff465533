"""Simulated MRI: receive fields, Rician noise, gradient tables, and stacks laid around the brain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.ball_phantom import seeded
from builders.small_patient import small_patient
from ichnos.simulation.exams.diffusion import (
    DiffusionProtocol,
    draw_diffusion_protocol,
    fsl_vectors,
    gradient_table,
)
from ichnos.simulation.exams.mri import (
    bias_field,
    draw_mri_protocol,
    mri_grid,
    rician,
    tissue_signal,
)
from ichnos.simulation.patient import BRAIN_TISSUES, Tissue, VirtualPatient

STILL = {"angle_deg": 0.0, "pose_deg": (0.0, 0.0, 0.0), "shift_mm": (0.0, 0.0, 0.0)}


@pytest.fixture(scope="module")
def patient() -> VirtualPatient:
    """Return a patient of ellipsoids who bleeds on the left."""
    return small_patient(fibres=False)


def _field(spread: float, *, seed: int = 0) -> torch.Tensor:
    return bias_field((20, 24, 10), spacing_mm=(2.0, 2.0, 5.0), spread=spread, generator=seeded(seed))


def test_a_receive_field_is_positive_smooth_and_follows_its_seed() -> None:
    field = _field(0.2)
    assert float(field.min()) > 0
    assert float(field.diff(dim=0).abs().max()) < 0.2
    assert torch.equal(field, _field(0.2))
    assert not torch.equal(field, _field(0.2, seed=1))


def test_without_spread_a_field_is_even_and_more_spread_is_more_uneven() -> None:
    assert torch.allclose(_field(0.0), torch.ones(20, 24, 10))
    assert torch.allclose(_field(0.2).log(), 2 * _field(0.1).log(), atol=1e-5)


def test_a_magnitude_without_noise_is_the_signal() -> None:
    signal = torch.rand(6, 6, generator=seeded(0)) * 100
    assert torch.allclose(rician(signal, sigma=0.0, generator=seeded(1)), signal)


@pytest.mark.parametrize("sigma", [2.0, 5.0])
def test_noise_in_air_is_that_of_rayleigh(sigma: float) -> None:
    air = rician(torch.zeros(40_000), sigma=sigma, generator=seeded(2))
    assert float(air.min()) >= 0
    assert float(air.mean()) == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.02)


def test_strong_signals_have_gaussian_noise() -> None:
    noisy = rician(torch.full((40_000,), 200.0), sigma=4.0, generator=seeded(3))
    assert float(noisy.std()) == pytest.approx(4.0, rel=0.03)
    assert float(noisy.mean()) == pytest.approx(200.0, abs=0.3)


@pytest.mark.parametrize("contrast", ["flair", "t1"])
def test_signals_are_never_negative_and_repeat(patient: VirtualPatient, contrast: str) -> None:
    first, again = (
        tissue_signal(patient, contrast, generator=seeded(1))  # type: ignore[arg-type]
        for _ in range(2)
    )
    assert first.shape == patient.shape
    assert float(first.min()) >= 0
    assert torch.equal(first, again)


def test_disease_is_bright_on_flair_and_dark_on_t1(patient: VirtualPatient) -> None:
    pale = patient.baseline.leukoaraiosis > 0.9
    white = (patient.baseline.tissue == int(Tissue.WHITE)) & ~pale & (patient.baseline.oedema < 0.01)
    white &= patient.baseline.ich < 0.01
    flair, t1 = (tissue_signal(patient, name, generator=seeded(1)) for name in ("flair", "t1"))  # type: ignore[arg-type]
    assert float(flair[pale].mean()) > 1.3 * float(flair[white].mean())
    assert float(t1[pale].mean()) < 0.9 * float(t1[white].mean())


def test_a_stack_covers_the_brain_with_its_margin(patient: VirtualPatient) -> None:
    affine, shape, patient_from_exam = mri_grid(patient, pixel_mm=2.0, step_mm=5.0, cover_mm=12.0, **STILL)  # type: ignore[arg-type]
    brain = (patient.baseline.tissue >= int(min(BRAIN_TISSUES))).nonzero().numpy()
    index = (~patient_from_exam).map(patient.world(brain))
    at = (np.linalg.inv(affine) @ np.c_[index, np.ones(len(index))].T)[:3]
    assert (at.min(1) > 0).all()
    assert (at.max(1) < np.array(shape) - 1).all()
    assert np.allclose(np.linalg.norm(affine[:3, :3], axis=0), [2.0, 2.0, 5.0])
    assert shape[0] % 2 == shape[1] % 2 == 0


def test_a_pose_moves_the_head_and_not_its_size(patient: VirtualPatient) -> None:
    posed = {**STILL, "pose_deg": (5.0, 2.0, -8.0), "shift_mm": (3.0, 4.0, -5.0)}
    _, _, straight = mri_grid(patient, pixel_mm=2.0, step_mm=5.0, cover_mm=12.0, **STILL)  # type: ignore[arg-type]
    _, _, turned = mri_grid(patient, pixel_mm=2.0, step_mm=5.0, cover_mm=12.0, **posed)  # type: ignore[arg-type]
    assert np.allclose(straight.matrix[:3, :3], np.eye(3))
    assert np.linalg.det(turned.matrix[:3, :3]) == pytest.approx(1.0)
    assert not np.allclose(turned.matrix, straight.matrix)


@given(st.integers(6, 64), st.integers(1, 4), st.sampled_from([(1000,), (1000, 2000)]))
@settings(max_examples=25)
def test_a_gradient_table_has_unit_directions_on_every_shell(
    directions: int, unweighted: int, shells: tuple[int, ...]
) -> None:
    b, g = gradient_table(DiffusionProtocol(b_values=shells, directions=directions, unweighted=unweighted))
    assert len(b) == len(g) == unweighted + directions * len(shells)
    assert sorted(set(b.tolist())) == [0.0, *map(float, shells)]
    assert np.allclose(np.linalg.norm(g, axis=1), b > 0)


def test_directions_spread_evenly_over_the_sphere() -> None:
    _, g = gradient_table(DiffusionProtocol(directions=64, unweighted=1))
    scatter = g[1:].T @ g[1:] / 64
    assert np.allclose(scatter, np.eye(3) / 3, atol=0.03)


def test_vectors_of_fsl_mirror_x_where_the_affine_does_not() -> None:
    world = np.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    plain, mirrored = (np.diag([side * 2.0, 2.0, 2.0, 1.0]) for side in (1, -1))
    assert np.allclose(fsl_vectors(world, plain), [[-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    assert np.allclose(fsl_vectors(world, mirrored), [[-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])


@given(st.integers(0, 5000))
@settings(max_examples=25)
def test_drawn_protocols_are_possible_and_repeat(seed: int) -> None:
    for contrast in ("flair", "t1"):
        first, again = (draw_mri_protocol(contrast, rng=np.random.default_rng(seed)) for _ in range(2))  # type: ignore[arg-type]
        assert first == again
        assert first.contrast == contrast
        assert 0.3 < first.pixel_mm < 3
        assert first.thickness_mm > 0
        assert first.gap_mm >= 0
    diffusion = draw_diffusion_protocol(rng=np.random.default_rng(seed))
    assert 1.5 < diffusion.voxel_mm < 3
    assert 1000 in diffusion.b_values
