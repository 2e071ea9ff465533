"""Properties of the one geometry: nothing moves in space, whatever is done to the array."""

from __future__ import annotations

import gc
import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from ichnos.errors import InputRefused, UsageError
from ichnos.volume import Affine, Box, Volume, box_around, centroid_mm, checked_affine, sphere, volume_ml

LETTERS = ("LR", "PA", "IS")
ORIENTATIONS = [
    "".join(pairs[i][side] for i, side in zip(range(3), sides, strict=True))
    for pairs in itertools.permutations(LETTERS)
    for sides in itertools.product((0, 1), repeat=3)
]


def turned(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(4)
    i, j = [a for a in range(3) if a != axis]
    matrix[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return matrix


def oblique(shape: tuple[int, ...] = (5, 6, 7), seed: int = 0) -> Volume:
    affine = turned(17, 0) @ turned(-9, 2) @ np.diag([0.5, 0.7, 3.0, 1.0])
    affine[:3, 3] = 10, -20, 30
    return Volume(np.random.default_rng(seed).normal(size=shape).astype(np.float32), affine)


# ---- 48 orientations
# ------------------------------------------------------------------------------------------------


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_reorienting_moves_no_voxel_in_space(orientation: str) -> None:
    volume = oblique()
    other = volume.reoriented(orientation)
    assert other.orientation == orientation
    index = np.argwhere(np.ones(volume.shape, bool))
    at = np.round(other.index(volume.world(index))).astype(int)
    assert np.array_equal(other.array[tuple(at.T)], volume.array[tuple(index.T)])
    back = other.reoriented(volume.orientation)
    assert np.array_equal(back.array, volume.array)
    assert np.allclose(back.affine, volume.affine)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_left_stays_left(orientation: str) -> None:
    volume = Volume(np.zeros((6, 6, 6), np.uint8), np.diag([1.0, 1, 1, 1]))
    volume.array[0, 3, 3] = 1  # x = 0 is left in RAS
    mark = centroid_mm(volume.reoriented(orientation))
    assert mark[0] == 0.0
    along = orientation.index("R") if "R" in orientation else orientation.index("L")
    at = int(np.argwhere(volume.reoriented(orientation).array)[0][along])
    assert at == (0 if "R" in orientation else 5)


def test_channels_follow_their_voxels() -> None:
    volume = oblique((4, 5, 6, 3))
    other = volume.reoriented("PIR")
    for c in range(3):
        one = volume.with_array(volume.array[..., c])
        assert np.array_equal(one.reoriented("PIR").array, other.array[..., c])


@pytest.mark.parametrize("wrong", ["", "RA", "RAX", "RLS", "RASS"])
def test_an_impossible_orientation_is_refused(wrong: str) -> None:
    with pytest.raises(InputRefused, match="48"):
        oblique().reoriented(wrong)


# ---- affine algebra
# -------------------------------------------------------------------------------------------------

matrices = st.builds(
    lambda a, b, c, scale, shift: (
        turned(a, 0) @ turned(b, 1) @ turned(c, 2) @ np.diag([*scale, 1.0])
        + np.pad(np.array(shift)[:, None], ((0, 1), (3, 0)))
    ),
    *[st.floats(-180, 180)] * 3,
    st.tuples(*[st.floats(0.2, 8)] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
)


@given(matrices, matrices)
@settings(max_examples=50, deadline=None)
def test_affines_form_a_group(a: np.ndarray, b: np.ndarray) -> None:
    A, B = Affine(a), Affine(b)
    points = np.array([[0.0, 0, 0], [10, -20, 30]])
    assert np.allclose((~A).map(A.map(points)), points, atol=1e-6)
    assert np.allclose((A @ B).map(points), A.map(B.map(points)), atol=1e-6)
    assert np.allclose((~(A @ B)).matrix, (~B @ ~A).matrix, atol=1e-6)


@given(matrices)
@settings(max_examples=50, deadline=None)
def test_world_and_index_undo_each_other(affine: np.ndarray) -> None:
    volume = Volume(np.zeros((3, 4, 5), np.uint8), affine)
    index = np.array([[0.0, 0, 0], [2, 3, 4], [0.5, 1.25, 2]])
    assert np.allclose(volume.index(volume.world(index)), index, atol=1e-6)
    assert volume.voxel_ml == pytest.approx(np.prod(volume.spacing_mm) / 1000)


values = st.sampled_from([0.0, 1.0, -1.0, 2.5, 1e-9, 1e12, float("nan"), float("inf")])
four_by_four = hnp.arrays(np.float64, (3, 4), elements=values).map(
    lambda rows: np.vstack([rows, [0, 0, 0, 1]])
)


@given(
    st.one_of(
        four_by_four,
        hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=3, max_side=5), elements=values),
    )
)
@settings(max_examples=100, deadline=None)
def test_any_array_is_an_affine_or_is_refused(array: np.ndarray) -> None:
    try:
        matrix = checked_affine(array)
    except InputRefused:
        usable = array.shape == (4, 4) and np.isfinite(array).all() and abs(np.linalg.det(array)) > 1
        assert not (usable and np.array_equal(array[3], (0, 0, 0, 1)) and np.abs(array).max() < 10)
    else:
        assert np.isfinite(np.linalg.inv(matrix)).all()


def test_a_value_cannot_be_changed_by_accident() -> None:
    volume = oblique()
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 0] = 2


# ---- resampling
# ------------------------------------------------------------------------------------------


def field(volume: Volume) -> np.ndarray:
    x, y, z = np.moveaxis(volume.world(np.moveaxis(np.indices(volume.shape), 0, -1)), -1, 0)
    return np.asarray(0.3 * x - 0.7 * y + 2 * z + 5)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_a_linear_field_is_kept_exactly(interpolation: str) -> None:
    source = oblique((12, 13, 14))
    source = source.with_array(field(source).astype(np.float32))
    inside = turned(25, 1) @ np.diag([0.6, 0.4, 0.9, 1])
    inside[:3, 3] = source.centre_mm - inside[:3, :3] @ [2.5, 2.5, 2.5]
    grid = Volume(np.zeros((6, 6, 6), np.uint8), inside)
    got = source.on_grid(grid, interpolation=interpolation)  # type: ignore[arg-type]
    assert np.abs(got.array - field(grid)).max() < (1e-4 if interpolation == "linear" else 0.2)
    assert got.array.dtype == np.float32


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("interpolation", "spline"), [("nearest", 0), ("linear", 1)])
def test_fast_and_slow_sampling_agree(interpolation: str, spline: int, order: str) -> None:
    source = oblique((9, 8, 7))
    source = source.with_array(np.asarray(source.array, order=order))  # type: ignore[call-overload]
    affine = turned(8, 1) @ source.affine @ np.diag([0.9, 1.1, 0.8, 1])
    affine[:3, 3] += source.centre_mm - Affine(affine).map(np.array([4.5, 5.0, 2.5]))
    grid = Volume(np.zeros((10, 11, 6)), affine)
    matrix = np.linalg.inv(source.affine) @ grid.affine
    slow = ndimage.affine_transform(
        source.array, matrix[:3, :3], matrix[:3, 3], grid.shape, order=spline, mode="nearest"
    )
    at = np.moveaxis(Affine(matrix).map(np.moveaxis(np.indices(grid.shape), 0, -1)), -1, 0)
    outside = np.any([(a < -0.5) | (a > n - 0.5) for a, n in zip(at, source.shape, strict=True)], axis=0)
    assert 0.02 < outside.mean() < 0.98
    fast = source.on_grid(grid, interpolation=interpolation, fill=-7.0)  # type: ignore[arg-type]
    assert np.abs(fast.array - np.where(outside, -7, slow)).max() < 1e-5
    assert fast.array.flags.writeable


def test_channels_are_sampled_one_by_one() -> None:
    source = oblique((6, 6, 6, 2))
    got = source.resampled(1.0)
    for c in range(2):
        assert np.array_equal(got.array[..., c], source.with_array(source.array[..., c]).resampled(1.0).array)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32, np.float64, ">i2", np.float16])
def test_every_number_type_can_be_sampled(dtype: object) -> None:
    source = Volume((np.arange(216).reshape(6, 6, 6) % 2).astype(dtype), np.eye(4))
    nearest = source.on_grid(source, interpolation="nearest")
    assert np.array_equal(nearest.array, source.array)
    assert source.on_grid(source).array.dtype.kind == "f"


def test_a_voxel_reaches_half_its_size_and_no_further() -> None:
    source = Volume(np.full((4, 4, 4), 9, np.int16), np.eye(4))
    affine = np.eye(4)
    affine[:3, 0] = [0.2, 0, 0]
    affine[0, 3] = -0.7
    line = source.on_grid(Volume(np.zeros((30, 4, 4)), affine), fill=-1).array[:, 1, 1]
    at = -0.7 + 0.2 * np.arange(30)
    inside = (at >= -0.5 - 1e-9) & (at < 3.5 - 1e-9)
    assert np.array_equal(line[inside], np.full(inside.sum(), 9.0))
    assert np.array_equal(line[~inside], np.full((~inside).sum(), -1.0))


def test_an_unknown_interpolation_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="nearest, linear, cubic"):
        oblique().on_grid(oblique(), interpolation="lanczos")  # type: ignore[arg-type]


def test_labels_are_never_invented() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[4:10], labels[10:16] = 1, 3  # a mean of 1 and 3 would be 2
    got = Volume(labels, np.eye(4)).labels_on_grid(
        Volume(np.zeros((31, 31, 31)), turned(12, 2) @ np.diag([0.6, 0.6, 0.6, 1]))
    )
    assert set(np.unique(got.array)) == {0, 1, 3}
    assert got.array.dtype == np.uint8


@pytest.mark.parametrize("spacing_mm", [0.5, 0.8, 1.0, 2.0])
def test_a_resampled_ball_keeps_place_and_size(spacing_mm: float) -> None:
    ball = sphere(radius_mm=15, spacing_mm=1.0, centre_mm=(3, -4, 5))
    grid = ball.padded((3, 3, 3), (3, 3, 3)).grid_with_spacing(spacing_mm)
    grid = Volume(grid.array, turned(20, 0) @ grid.affine)
    ball = Volume(ball.array, turned(20, 0) @ ball.affine)
    got = ball.labels_on_grid(grid)
    assert volume_ml(got) == pytest.approx(volume_ml(ball), rel=0.02)
    assert np.linalg.norm(centroid_mm(got) - centroid_mm(ball)) < 0.1 * spacing_mm


def test_several_labels_split_a_tie_in_favour_of_the_smaller_one() -> None:
    labels = Volume(np.array([1, 2], np.uint8).reshape(2, 1, 1), np.eye(4))
    affine = np.eye(4)
    affine[0, 3] = 0.5
    assert labels.labels_on_grid(Volume(np.zeros((1, 1, 1)), affine)).array.item() == 1


@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.floats(0.3, 5)] * 3))
@settings(max_examples=40, deadline=None)
def test_another_voxel_size_keeps_the_middle(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    volume = Volume(np.zeros(shape, np.uint8), oblique().affine)
    grid = volume.grid_with_spacing(spacing)
    assert np.allclose(grid.centre_mm, volume.centre_mm, atol=1e-6)
    assert np.allclose(grid.spacing_mm, spacing)
    extent = np.array(volume.shape) * volume.spacing_mm
    assert (
        np.abs(np.array(grid.shape) * spacing - extent) <= np.maximum(spacing, extent) / 2 + np.array(spacing)
    ).all()


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), (1.0, 0.0, 1.0)])
def test_an_impossible_voxel_size_is_refused(wrong: float) -> None:
    with pytest.raises(InputRefused, match="positive"):
        oblique().resampled(wrong)


def test_a_sheared_grid_gets_right_angles_around_it() -> None:
    affine = np.diag([0.5, 0.5, 5.0, 1.0])
    affine[1, 2] = 5 * np.tan(np.deg2rad(20))
    sheared = Volume(np.ones((30, 30, 10), np.float32), affine)
    assert not sheared.is_orthogonal
    grid = sheared.orthogonal_grid()
    assert grid.is_orthogonal
    corners = sheared.world(np.array(list(itertools.product((0, 29), (0, 29), (0, 9)))))
    at = grid.index(corners)
    assert (at > -0.51).all()
    assert (at < np.array(grid.shape) - 0.49).all()
    mass = sheared.on_grid(grid)
    assert volume_ml(mass) == pytest.approx(volume_ml(sheared), rel=0.05)


# ---- crop, pad, paste
# -----------------------------------------------------------------------------------------------

boxes = st.tuples(*[st.tuples(st.integers(0, 4), st.integers(1, 5)) for _ in range(3)])


@given(boxes)
@settings(max_examples=50, deadline=None)
def test_a_crop_goes_back_to_its_place(box: tuple[tuple[int, int], ...]) -> None:
    volume = oblique((5, 5, 5))
    cut = Box(tuple(a for a, _ in box), tuple(min(5, a + n) for a, n in box))
    part = volume.cropped(cut)
    assert np.allclose(part.world((0, 0, 0)), volume.world(cut.start))
    pasted = volume.with_array(np.zeros_like(volume.array)).pasted(part)
    assert np.array_equal(pasted.cropped(cut).array, part.array)
    assert np.count_nonzero(pasted.array) <= part.array.size
    assert np.array_equal(volume.pasted(part).array, volume.array)


@given(st.tuples(*[st.integers(0, 3)] * 3), st.tuples(*[st.integers(0, 3)] * 3))
@settings(max_examples=30, deadline=None)
def test_padding_is_undone_by_cropping(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    volume = oblique((3, 4, 5))
    padded = volume.padded(before, after, fill=-1)
    back = padded.cropped(Box(before, tuple(b + n for b, n in zip(before, volume.shape, strict=True))))
    assert np.array_equal(back.array, volume.array)
    assert back.same_grid(volume)
    assert float(padded.array.sum()) == pytest.approx(
        float(volume.array.sum()) - (padded.array.size - volume.array.size), abs=1e-3
    )


def test_a_part_from_elsewhere_is_refused() -> None:
    volume = oblique((5, 5, 5))
    part = volume.cropped(Box((1, 1, 1), (3, 3, 3)))
    shifted = part.affine.copy()
    shifted[0, 3] += 0.2
    with pytest.raises(InputRefused, match="not a crop"):
        volume.pasted(Volume(part.array, shifted))
    with pytest.raises(InputRefused, match="float32"):
        volume.astype(np.int16).pasted(part)
    with pytest.raises(UsageError, match="negative"):
        volume.padded((-1, 0, 0), (0, 0, 0))


def test_the_box_around_a_mask_holds_it_with_its_margin() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[5:8, 9, 11:19] = True
    volume = Volume(mask, np.diag([1.0, 2.0, 4.0, 1.0]))
    box = box_around(volume, margin_mm=4.0)
    assert (box.start, box.stop) == ((1, 7, 10), (12, 12, 20))
    with pytest.raises(InputRefused, match="empty"):
        box_around(volume.map_array(np.zeros_like))


# ---- bridges
# ------------------------------------------------------------------------------------------


def test_nibabel_shares_memory_both_ways() -> None:
    volume = oblique()
    image = volume.to_nibabel()
    assert np.shares_memory(np.asanyarray(image.dataobj), volume.array)
    assert np.shares_memory(Volume.from_nibabel(image).array, volume.array)
    assert np.allclose(image.affine, volume.affine, atol=1e-5)
    mask = volume.map_array(lambda a: a > 0)
    assert np.shares_memory(np.asanyarray(mask.to_nibabel().dataobj), mask.array)


def test_nibabel_frames_and_missing_positions() -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3, 1), np.float32), np.eye(4))
    assert Volume.from_nibabel(image).array.ndim == 3
    with pytest.raises(InputRefused, match="no affine"):
        Volume.from_nibabel(_Bare())


class _Bare:
    affine = None
    dataobj = np.zeros((2, 2, 2))


def test_simpleitk_agrees_on_every_voxel_place() -> None:
    volume = oblique()
    image = volume.to_sitk()
    lps = np.array(image.TransformIndexToPhysicalPoint((2, 3, 4)))
    assert np.allclose(lps * (-1, -1, 1), volume.world((2, 3, 4)), atol=1e-5)
    assert image.GetPixel(2, 3, 4) == pytest.approx(float(volume.array[2, 3, 4]))
    back = Volume.from_sitk(image)
    assert back.same_grid(volume)
    assert np.array_equal(back.array, volume.array)


def test_a_view_of_a_simpleitk_image_outlives_it() -> None:
    def made() -> Volume:
        return Volume.from_sitk(sitk.GetImageFromArray(np.full((40, 100, 100), 7, np.float32)))

    view = made().array
    gc.collect()
    junk = [np.full((40, 100, 100), 3, np.float32) for _ in range(5)]
    assert len(junk) == 5
    assert (view == 7).all()
    assert not view.flags.writeable


def test_simpleitk_channels_and_dimensions() -> None:
    volume = oblique((4, 5, 6, 2))
    back = Volume.from_sitk(volume.to_sitk())
    assert np.array_equal(back.array, volume.array)
    with pytest.raises(InputRefused, match="2 dimensions"):
        Volume.from_sitk(sitk.Image(4, 4, sitk.sitkUInt8))


def test_simpleitk_cannot_hold_a_sheared_grid() -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.3
    with pytest.raises(InputRefused, match="sheared"):
        Volume(np.zeros((3, 3, 3)), affine).to_sitk()


# ---- measures
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "ASR", "IRP"])
def test_volume_and_place_of_a_ball_do_not_depend_on_the_axes(orientation: str) -> None:
    ball = sphere(radius_mm=12, spacing_mm=(0.5, 0.5, 1.0), centre_mm=(20, -10, 5)).reoriented(orientation)
    assert volume_ml(ball) == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.005)
    assert np.allclose(centroid_mm(ball), (20, -10, 5), atol=1e-9)


def test_probabilities_add_up_and_nothing_has_no_place() -> None:
    half = sphere(radius_mm=10, spacing_mm=1.0).map_array(lambda a: a * np.float32(0.5))
    assert volume_ml(half) == pytest.approx(volume_ml(sphere(radius_mm=10, spacing_mm=1.0)) / 2)
    assert np.isnan(centroid_mm(half.map_array(np.zeros_like))).all()
