"""Hyperintensities on FLAIR exams that are painted on the MNI template, whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.errors import InputRefused, MissingExtra
from ichnos.registration.contrast import view
from ichnos.registration.transform import IDENTITY, Transform
from ichnos.transfer.flair import (
    given_hyperintensities,
    hyperintensities_of,
    leukoaraiosis_on_ct,
    lst_ai_hyperintensities,
)
from ichnos.transfer.flair.segmenter import segment_hyperintensities
from ichnos.transfer.mri_to_mni import _affine, _fixed, painted_template, register_mri_to_mni
from ichnos.volume import Affine, Volume, volume_ml


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.fixture(scope="module")
def truth() -> Volume:
    """Return lesions around the ventricles and two deep ones, on a grid of 1.5 x 1.5 x 4 mm."""
    codes = mni.structures().array
    near = ndimage.distance_transform_edt(codes != mni.VENTRICLE)
    _, y, z = mni.coordinates(mni.structures())
    caps = (codes == mni.WHITE) & (near < 6) & (z > 0) & ((np.abs(y + 30) < 25) | (np.abs(y - 25) < 20))
    x = np.abs(mni.coordinates(mni.structures())[0])
    deep = (x - 26) ** 2 + (y + 5) ** 2 + (z - 34) ** 2 < 49
    fine = mni.structures().with_array((caps | (deep & (codes == mni.WHITE))).astype(np.float32))
    return Transform().pull_share(fine, fine.grid_with_spacing((1.5, 1.5, 4.0)))


def painted(
    truth: Volume, *, seed: int = 0, bias: float = 0.15, noise: float = 0.04, scale: float = 300.0
) -> Volume:
    rng = np.random.default_rng(seed)
    wm, gm, brain = (
        m.on_grid(truth).array
        for m in (mni.template("wm"), mni.template("gm"), mni.brain_mask().astype(np.float32))
    )
    image = wm + 1.2 * gm + 0.2 * np.clip(brain - wm - gm, 0, 1)
    image = image * (1 - truth.array) + 1.7 * truth.array
    x = np.linspace(-1, 1, truth.shape[0])[:, None, None]
    y = np.linspace(-1, 1, truth.shape[1])[None, :, None]
    image = image * np.exp(bias * (x + 0.7 * y**2))
    return truth.with_array(
        (scale * np.hypot(image + noise * rng.normal(size=image.shape), noise)).astype(np.float32)
    )


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (4000.0, 0.2)])
def test_finds_painted_lesions_whatever_the_scale(truth: Volume, scale: float, bias: float) -> None:
    found = segment_hyperintensities(painted(truth, scale=scale, bias=bias), flair_from_mni=IDENTITY)
    assert dice(found.mask.array, truth.array >= 0.5) > 0.7
    assert abs(volume_ml(found.share) / volume_ml(truth) - 1) < 0.35


def test_a_brain_without_lesions_stays_nearly_empty(truth: Volume) -> None:
    clean = painted(truth.with_array(np.zeros_like(truth.array)), bias=0.1)
    assert volume_ml(segment_hyperintensities(clean, flair_from_mni=IDENTITY).mask) < 2.0


def test_a_one_sided_bright_mass_is_left_out(truth: Volume) -> None:
    x, y, z = np.moveaxis(
        truth.world(np.stack(np.meshgrid(*map(np.arange, truth.shape), indexing="ij"), axis=-1)), -1, 0
    )
    oedema = (x - 30) ** 2 + (y - 0) ** 2 + (z - 25) ** 2 < 15**2
    flair = painted(truth.with_array(np.maximum(truth.array, oedema)))
    plain = segment_hyperintensities(flair, flair_from_mni=IDENTITY)
    assert (plain.mask.array & oedema).mean() < 0.5 * oedema.mean()
    told = segment_hyperintensities(flair, flair_from_mni=IDENTITY, exclude=truth.with_array(oedema))
    assert not (told.mask.array & oedema).any()


def test_a_lesion_that_runs_into_what_is_excluded_stays_and_the_bright_rim_of_it_goes(truth: Volume) -> None:
    at = truth.world(np.stack(np.meshgrid(*map(np.arange, truth.shape), indexing="ij"), axis=-1))
    distance = np.linalg.norm(at - (32, 14, 22), axis=-1)  # beside the frontal horn's cap, larger than it
    flair = painted(truth.with_array(np.maximum(truth.array, distance < 19.5)))
    found = segment_hyperintensities(
        flair, flair_from_mni=IDENTITY, exclude=truth.with_array(distance < 18)
    ).mask.array
    cap = (truth.array >= 0.5) & (distance > 20) & (np.linalg.norm(at - (14, 30, 12), axis=-1) < 16)
    assert (found & cap).sum() > 0.6 * cap.sum()
    assert not (found & (distance < 17.9)).any()
    bare = (distance > 19) & (distance < 21) & (truth.array == 0)
    assert (found & bare).sum() < 0.1 * bare.sum()


def test_infarcts_that_reach_the_cortex_are_left_out_on_both_sides(truth: Volume) -> None:
    at = np.abs(
        truth.world(np.stack(np.meshgrid(*map(np.arange, truth.shape), indexing="ij"), axis=-1)) - (0, 20, 62)
    )
    infarct = (at[..., 0] < 26) & (at[..., 1] < 18) & (at[..., 2] < 12)  # of both anterior cerebral arteries
    found = segment_hyperintensities(
        painted(truth.with_array(np.maximum(truth.array, infarct))), flair_from_mni=IDENTITY
    ).mask.array
    assert (found & infarct).sum() < 0.05 * infarct.sum()
    elsewhere = (truth.array >= 0.5) & ~infarct
    assert dice(found & ~infarct, elsewhere) > 0.7


def test_the_same_exam_is_placed_the_same_twice() -> None:
    moving = view(painted_template("flair", stripped=True), spacing_mm=2.0, contrast="mri")
    moved = Volume(
        moving.image.array,
        np.array([[1, 0, 0, 3], [0, 1, 0, -2], [0, 0, 1, 4], [0, 0, 0, 1.0]]) @ moving.image.affine,
    )
    fixed = _fixed("flair", stripped=True, inner=True)
    one, two = (
        _affine(fixed, replace(moving, image=moved), IDENTITY, rigid=True, threads=1) for _ in range(2)
    )
    points = np.array([[0.0, 0, 0], [40, -30, 20], [-50, 10, 40]])
    assert np.array_equal(one.map(points), two.map(points))


def test_the_template_is_found_from_another_pose() -> None:
    template = painted_template("flair", stripped=True)
    turn = np.eye(4)
    turn[:3, :3] = [[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]]
    turn[:3, 3] = (12, -8, 15)
    exam = Volume(template.array, turn @ template.affine)
    to_mni = register_mri_to_mni(exam, weighting="flair", deformable=False)
    points = np.array([[0.0, 0, 0], [30, -20, 10], [-30, 20, 40], [0, -60, 20]])
    error = np.linalg.norm(to_mni.exam_from_mni.map(points) - Affine(turn).map(points), axis=1)
    assert to_mni.stripped
    assert error.max() < 2.0


def test_named_refusals() -> None:
    with pytest.raises(InputRefused, match="every voxel of the FLAIR exam is 0"):
        hyperintensities_of(Volume(np.zeros((60, 60, 30), np.float32), np.diag([3.0, 3, 5, 1])))
    with pytest.raises(InputRefused, match="2 slices"):
        hyperintensities_of(Volume(np.random.default_rng(0).random((60, 60, 2)), np.diag([3.0, 3, 5, 1])))
    flair = Volume(np.ones((8, 8, 8), np.float32), np.eye(4))
    with pytest.raises(InputRefused, match="probability"):
        given_hyperintensities(flair.with_array(flair.array * -3.5), flair)


def test_lst_ai_is_asked_for_by_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match="LST-AI is not installed"):
        lst_ai_hyperintensities(tmp_path / "f.nii.gz", tmp_path / "t.nii.gz")


def test_a_given_mask_keeps_its_volume_on_thinner_slices(truth: Volume) -> None:
    mask = truth.with_array(truth.array >= 0.5)
    ct = truth.grid_with_spacing((1.0, 1.0, 2.0)).astype(np.float32)
    given = given_hyperintensities(mask, painted(truth))
    found = leukoaraiosis_on_ct(given, flair_from_ct=IDENTITY, ct=ct)
    assert found.volume_ml == pytest.approx(volume_ml(truth), rel=0.1)
    assert volume_ml(found.mask) == pytest.approx(volume_ml(mask), rel=0.1)
    blood = ct.with_array(np.ones(ct.shape, np.uint8))
    assert leukoaraiosis_on_ct(given, flair_from_ct=IDENTITY, ct=ct, blood=blood).volume_ml == 0
