"""Two exams of one painted head come together from any pose; what cannot be registered is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from builders.painted import anatomy, brain_points, painted, posed, ventricles
from ichnos.anatomy.ct_to_mni import register_ct_to_mni, template_as_ct
from ichnos.errors import InputRefused
from ichnos.registration import Displacement, Registration, Transform, register
from ichnos.registration.contrast import View, view
from ichnos.registration.deformable import deformed
from ichnos.registration.rigid import refined_pose
from ichnos.volume import Affine, Volume, sphere


def error_mm(found: Registration, truth: Affine) -> float:
    points = brain_points()
    return float(np.linalg.norm(found.transform.map(points) - truth.map(points), axis=1).max())


def thick(image: Volume, *, low: int = 0) -> Volume:
    slices = image.resampled((1.0, 1.0, 5.0), fill=float(image.array.min()))
    return Volume(slices.array[:, :, low:], np.array(Volume(slices.array, slices.affine).affine) @ _up(low))


def _up(low: int) -> np.ndarray:
    step = np.eye(4)
    step[2, 3] = low
    return step


@pytest.mark.parametrize(
    ("rotation", "shift", "look", "low"),
    [
        ((28, -8, 12), (10, -20, 30), "flair", 0),
        ((-20, 15, -25), (0, 5, -10), "t1", 0),
        ((12, 0, 5), (4, 0, 9), "flair", 12),
    ],
    ids=["steep flair", "turned t1", "ct without its lower third"],
)
def test_rigid_finds_the_pose_on_thick_slices(rotation: tuple, shift: tuple, look: str, low: int) -> None:
    ct = thick(painted("ct"), low=low)
    mri, truth = posed(painted(look, seed=1), rotation, shift)  # type: ignore[arg-type]
    found = register(ct, mri)
    assert error_mm(found, truth) < 2.0
    assert found.transform.is_affine
    assert found.head_overlap > 0.9


def test_the_threads_of_itk_do_not_change_a_digit() -> None:
    import SimpleITK as sitk

    ct = painted("ct", noise=5.0).resampled((4.0, 4.0, 6.0), fill=-1000.0)
    flair, truth = posed(painted("flair", seed=1), (6, -4, 5), (4, 2, 8))
    seen = view(ct, spacing_mm=4.0), view(flair.resampled((3.0, 3.0, 4.0)), spacing_mm=4.0)
    before, found = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), []
    try:
        for count in (1, 2, 4):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
            pose, score = refined_pose(
                Transform.of(truth), *seen, kind="rigid", exclude=None, fine=False, threads=1
            )
            found.append((pose.affine.matrix.tobytes(), score))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == count
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert len(set(found)) == 1


def test_a_haematoma_does_not_pull_the_heads_apart() -> None:
    ct = painted("ct")
    ball = (
        sphere(radius_mm=22, spacing_mm=2.0, centre_mm=(28, -5, 10))
        .on_grid(ct, interpolation="nearest")
        .array
    )
    bleeding = ct.with_array(np.where(ball, 62.0, ct.array).astype(np.float32))
    mri, truth = posed(painted("flair", seed=1), (10, -5, 8), (5, 5, 5))
    assert error_mm(register(bleeding, mri), truth) < 1.5


def test_brain_extracted_mri_registers() -> None:
    mri = painted("t1", seed=1)
    bare = mri.with_array(np.where(anatomy().array >= 4, mri.array, 0).astype(np.float32))
    moved, truth = posed(bare, (8, 4, -10), (5, -5, 8))
    assert error_mm(register(painted("ct"), moved), truth) < 2.0


@pytest.mark.slow
def test_deformable_follows_the_ventricles() -> None:
    tissue = anatomy()
    out = tissue.world(np.indices(tissue.shape).transpose(1, 2, 3, 0)) - ventricles().world(
        np.argwhere(ventricles().array).mean(axis=0)
    )
    # their ventricles are larger than ours
    field = -0.3 * out * np.exp(-(out**2).sum(axis=-1, keepdims=True) / (2 * 25.0**2))
    truth = Transform.of(Displacement(Volume(field.astype(np.float32), tissue.affine)))
    warped = (~truth).pull(tissue, tissue, interpolation="nearest")
    theirs = (~truth).pull(ventricles(), tissue, interpolation="nearest").array > 0
    ct, mri, ours = painted("ct", tissue=tissue), painted("t1", seed=1, tissue=warped), ventricles().array > 0
    found = register(ct, mri, kind="deformable", spacing_mm=3.0)
    carried = found.transform.pull(ventricles().with_array(theirs.astype(np.float32)), tissue).array > 0.5

    def dice(a: np.ndarray) -> float:
        return 2 * float((a & ours).sum()) / float(a.sum() + ours.sum())

    assert dice(theirs) < 0.85
    assert dice(carried) > dice(theirs) + 0.05
    assert found.jacobian_min > 0.2


@pytest.mark.filterwarnings("ignore")
def test_ants_finds_a_known_displacement_where_it_is_installed() -> None:
    pytest.importorskip("ants")
    index = np.indices((40, 44, 36)).transpose(1, 2, 3, 0)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-40, -44, -36)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 44, 36)), 3)
    fixed = Volume(((noise - noise.min()) / np.ptp(noise)).astype(np.float32), affine)
    field = np.zeros((40, 44, 36, 3), np.float32)
    field[..., 0] = 3 * np.exp(-((index - (20, 22, 18)) ** 2).sum(axis=-1) / 100)
    moving = (~Transform.of(Displacement(Volume(field, affine)))).pull(fixed, fixed)
    everywhere = fixed.with_array(np.ones(fixed.shape, bool))
    views = (View(fixed, everywhere, "mri"), View(moving, everywhere, "mri"))
    found = deformed(*views, Transform(), exclude=None, stiffness=1.0, backend="ants", threads=1)
    shift = found.map(fixed.world((20, 22, 18))) - fixed.world((20, 22, 18))
    assert np.allclose(shift, (3, 0, 0), atol=0.7)


def test_a_ct_finds_its_place_in_mni_space() -> None:
    template, _ = template_as_ct()
    ct, moved = posed(template.resampled((1.5, 1.5, 5.0), fill=-1000.0), (15, -6, 10), (5, 20, -30))
    points = brain_points()
    found = register_ct_to_mni(ct)
    error = np.linalg.norm(found.mni_from_ct.map(moved.map(points)) - points, axis=1)
    assert np.median(error) < 2.0


@pytest.mark.parametrize(
    ("image", "cause"),
    [
        (Volume(np.zeros((40, 40, 20), np.float32), np.diag([5.0, 5, 8, 1])), "nothing to register"),
        (
            Volume(np.ones((40, 40, 2), np.float32) * np.arange(40)[:, None, None], np.diag([5.0, 5, 8, 1])),
            "three slices",
        ),
        (Volume(np.full((40, 40, 20), np.nan, np.float32), np.diag([5.0, 5, 8, 1])), "not finite"),
        (Volume(np.ones((20, 20, 20, 5), np.float32), np.diag([8.0, 8, 8, 1])), "three-dimensional"),
    ],
)
def test_what_cannot_be_registered_is_refused(image: Volume, cause: str) -> None:
    with pytest.raises(InputRefused, match=cause):
        register(painted("ct"), image)
