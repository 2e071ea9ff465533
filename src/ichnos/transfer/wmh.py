"""White-matter hyperintensities on a FLAIR exam, found without any trained network.

The steps: place the MNI template on the exam; even out the receive field (N4); learn the brightness of
normal-appearing white matter and of cortex where the template says they lie; call outliers above both, in the
white matter, hyperintense; learn how bright these are, so that a voxel half-way between is half a lesion;
then leave out what is bright for another reason: cortex, infarcts that reach it, the septum between the
ventricles, plexus and flow inside them, everything under the tentorium, whatever the caller excludes (a
haematoma with its oedema), and large lesions that only one hemisphere has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.errors import InputRefused
from ichnos.registration.transform import Transform
from ichnos.verdict import Reason, Verdict
from ichnos.volume import Affine, Array, Box, Volume, volume_ml

MIN_SLICES = 6
MIN_COVERAGE_MM = 60.0
_MAP_MM = 2.0  # voxels of the template's maps
FINEST_MM = 1.0  # finer voxels are averaged to this before the search
ONE_SIDED_ML = 4.0  # a lesion part this large without a partner in the other hemisphere is no leukoaraiosis
_IN_PLANE = ndimage.generate_binary_structure(3, 1) & np.array(
    [False, True, False]
)  # a voxel and its four neighbours in the slice
SURFACE_MM, SURFACE_SHARE, SURFACE_ML = (
    8.0,
    0.25,
    1.0,
)  # a bright part this large, with this share so near the surface, is an infarct
EDGE_MM, RIM_MM = (
    1.0,
    4.0,
)  # from what the caller excludes: its border is that uncertain; bright parts within the rim are its edge
RIM_SHARE = 0.7  # a part with more than this of itself in the rim is nothing but rim
PARTNER_MM = 8.0  # how far about the mirrored place the partner may lie
PARTNER_SHARE = 0.1  # how much of the part it must make up at least


@dataclass(frozen=True, eq=False)
class Places:
    """Where the template says things are, on the grid of an exam; all float32 (x, y, z)."""

    white: Array  # probability of cerebral white matter, blurred by 2 mm
    cortex: Array  # probability of grey matter, blurred by 2 mm
    brain: Array  # inside of the pia, 0…1
    ventricle: Array  # 0…1, blurred
    depth_mm: Array  # distance to the brain's surface, inwards
    cerebrum: Array  # 1 above the tentorium
    nuclei: Array  # deep grey matter, 0…1
    midline_mm: Array  # distance to the midsagittal plane


@dataclass(frozen=True)
class Brightness:
    """What tissues look like in one exam, in units of normal-appearing white matter above the darkest
    fluid.
    """

    white_spread: float  # standard deviation of normal-appearing white matter, noise and structure
    cortex: float  # typical cortex, 1.1…1.4
    lesion: float  # typical hyperintensity; an assumption where too little is seen
    threshold: float  # half-way from white matter to lesion, and above cortex


@dataclass(frozen=True, eq=False)
class Hyperintensities:
    """White-matter hyperintensities on the grid of their FLAIR exam."""

    share: Volume  # float32, which share of each voxel is lesion, 0…1
    brightness: Brightness | None  # None for a mask that was given
    left_out: Volume  # bool: bright parts that were judged to be something else
    verdict: Verdict

    @property
    def mask(self) -> Volume:
        """Return the voxels that are at least half lesion."""
        return self.share.with_array(self.share.array >= 0.5)


def checked_flair(flair: Volume) -> Volume:
    """Return the exam as float32 with finite values, or refuse one that cannot be read.

    >>> checked_flair(Volume(np.zeros((64, 64, 20)), np.diag([3.0, 3, 6, 1])))
    Traceback (most recent call last):
    ichnos.errors.InputRefused: every voxel of the FLAIR exam is 0: the file holds no image; export the series
    again
    """
    if flair.array.ndim != 3:
        raise InputRefused(
            f"the FLAIR exam has shape {flair.array.shape}; one three-dimensional image is expected"
        )
    array = np.nan_to_num(flair.array.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if array.max() == array.min():
        raise InputRefused(
            f"every voxel of the FLAIR exam is {float(array.max()):g}: the file holds no image; export the"
            " series again"
        )
    covered = min(np.array(flair.shape) * np.array(flair.spacing_mm))
    if min(flair.shape) < MIN_SLICES or covered < MIN_COVERAGE_MM:
        raise InputRefused(
            f"the FLAIR exam has {min(flair.shape)} slices over {covered:.0f} mm; "
            f"{MIN_SLICES} slices and {MIN_COVERAGE_MM:.0f} mm are needed"
        )
    return flair.with_array(array)


def segment_hyperintensities(
    flair: Volume, *, flair_from_mni: Transform, exclude: Volume | None = None
) -> Hyperintensities:
    """Segment white-matter hyperintensities; `exclude` (any grid of the same space) marks blood, oedema or
    an infarct to leave out.
    """
    original = checked_flair(flair)
    work = _cropped(_working_grid(original), ~flair_from_mni)
    places = places_on(work, mni_from_exam=~flair_from_mni)
    even = even_brightness(work, places)
    brightness, candidates = _learn(even, places)
    share = np.clip((even - 1.0) / (brightness.lesion - 1.0), 0, 1)
    kept, left_out = _keep_white_matter(even, candidates, brightness, places, work)
    excluded = (
        np.zeros(work.shape, bool)
        if exclude is None
        else exclude.astype(np.float32).on_grid(work).array > 0.05
    )
    infarct = kept & _reaching_the_surface((even > brightness.threshold) & ~excluded, places, work)
    kept, left_out = kept & ~infarct, left_out | infarct
    dim = ndimage.binary_opening(
        (even > 1 + 0.7 * (brightness.threshold - 1)) & (places.white > 0.5), _IN_PLANE
    )
    kept, other = _leave_out(kept, excluded, work, flair_from_mni, partners=dim)
    left_out |= other
    share = np.where(_soft_edge(kept, even, brightness, places) & ~excluded, share, 0).astype(np.float32)
    found = work.with_array(share)
    verdict = _judge(brightness, places, found, work.with_array(left_out))
    if not work.same_grid(original):
        found = found.on_grid(original)
    return Hyperintensities(
        found, brightness, work.with_array(left_out).on_grid(original, interpolation="nearest"), verdict
    )


def _working_grid(flair: Volume) -> Volume:
    """Average voxels finer than 1 mm; thicker slices stay as they are."""
    upright = flair.reoriented("RAS")
    spacing = np.array(upright.spacing_mm)
    if (spacing > 0.8 * FINEST_MM).all():
        return upright
    blur = [0.4 * max(0.0, FINEST_MM / s - 1) for s in spacing]
    soft = upright.with_array(ndimage.gaussian_filter(upright.array, blur))
    return soft.resampled([float(max(s, FINEST_MM)) for s in spacing])


def _cropped(flair: Volume, mni_from_exam: Transform) -> Volume:
    """Cut out the brain with a margin, for speed."""
    coarse = flair.grid_with_spacing(6.0)
    brain = mni_from_exam.pull(mni.brain_mask().astype(np.float32), coarse).array > 0.2
    if not brain.any():
        raise InputRefused(
            "the MNI template and the FLAIR exam do not overlap: the exam may not show a head, or its"
            " position is damaged"
        )
    corners = coarse.world(np.argwhere(brain))
    index = flair.index(corners)
    start = np.clip(np.floor(index.min(0) - 8 / np.array(flair.spacing_mm)), 0, None).astype(int)
    stop = np.clip(np.ceil(index.max(0) + 8 / np.array(flair.spacing_mm)) + 1, None, flair.shape).astype(int)
    return flair.cropped(Box(tuple(int(i) for i in start), tuple(int(i) for i in stop)))


def places_on(grid: Volume, *, mni_from_exam: Transform) -> Places:
    """Bring the template's maps onto the grid of an exam."""
    pulled = mni_from_exam.pull(_template_maps(), grid).array
    white, cortex, brain, ventricle, depth, cerebrum, nuclei, midline = np.moveaxis(pulled, -1, 0)
    return Places(white, cortex, brain, ventricle, depth, cerebrum, nuclei, midline)


@lru_cache(maxsize=1)
def _template_maps() -> Volume:
    """Return the maps of `Places`, in its order, as channels on a 2 mm grid of MNI space."""
    grid = mni.brain_mask().grid_with_spacing(_MAP_MM)
    codes = mni.structures().on_grid(grid, interpolation="nearest").array
    brain = mni.brain_mask().astype(np.uint8).on_grid(grid, interpolation="nearest").array > 0
    cerebral = np.isin(
        codes,
        (
            mni.WHITE,
            mni.CORTEX,
            mni.THALAMUS,
            mni.CAUDATE,
            mni.PUTAMEN,
            mni.PALLIDUM,
            mni.VENTRICLE,
            mni.HIPPOCAMPUS,
        ),
    )
    hind = np.isin(codes, (mni.BRAINSTEM, mni.CEREBELLAR_CORTEX, mni.CEREBELLAR_WHITE))
    nuclei = np.isin(codes, (mni.THALAMUS, mni.CAUDATE, mni.PUTAMEN, mni.PALLIDUM, mni.HIPPOCAMPUS))

    def blurred(mask: Array, sigma_mm: float) -> Array:
        return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), sigma_mm / _MAP_MM))

    white, cortex, ventricle = (
        blurred(codes == code, 2.0) for code in (mni.WHITE, mni.CORTEX, mni.VENTRICLE)
    )
    depth = np.maximum(
        ndimage.distance_transform_edt(brain) * _MAP_MM - 0.5, 0
    )  # the surface lies between the voxels
    above = blurred(cerebral, 3.0) >= blurred(hind, 3.0)
    maps = (white, cortex, brain, ventricle, depth, above, nuclei, np.abs(mni.coordinates(grid)[0]))
    return grid.with_array(np.stack([m.astype(np.float32) for m in maps], axis=-1))


def even_brightness(flair: Volume, places: Places) -> Array:
    """Divide out the receive field and the scale: the darkest becomes 0 and normal-appearing white matter
    1.
    """
    array = flair.array - float(np.percentile(flair.array, 0.5))
    inside = (places.brain > 0.5) & (array > 0)
    if np.count_nonzero(inside) * flair.voxel_ml < 200:
        raise InputRefused(
            "the MNI template and the FLAIR exam do not overlap: the exam may not show a head, or its"
            " position is damaged"
        )
    array = array / float(np.median(array[inside]))
    array = array / _receive_field(flair.with_array(array), places)
    return np.asarray(array / white_peak(array[(places.white > 0.7) & inside]), np.float32)


def _receive_field(flair: Volume, places: Places) -> Array:
    """Estimate the smooth factor that the coil puts on the image, from what the template expects in each
    place.

    On voxels of 4 mm, the difference of the logarithms of seen and expected brightness is averaged over ever
    smaller distances; fluid, lesions and misplaced cortex differ too much from their surroundings and lose
    their weight.
    """
    grid = flair.grid_with_spacing([max(4.0, s) for s in flair.spacing_mm])
    seen, white, cortex = (
        flair.with_array(a).on_grid(grid).array for a in (flair.array, places.white, places.cortex)
    )
    tissue = np.clip(white + cortex, 0, 1)
    use = (tissue > 0.5) & (seen > 0.3)
    log = np.where(use, np.log(np.maximum(seen, 0.1)) - np.log1p(0.15 * cortex / np.maximum(tissue, 0.1)), 0)
    field = np.full(grid.shape, float(np.median(log[use])) if use.any() else 0.0)
    for width_mm, trust in (
        (40.0, 1.0),
        (30.0, 0.7),
        (25.0, 0.5),
        (20.0, 0.35),
        (18.0, 0.25),
        (16.0, 0.2),
        (16.0, 0.15),
    ):
        left = log - field
        weight = use / (1 + (left / np.where(left > 0, trust, 1.5 * trust)) ** 2) ** 2
        sigma = [width_mm / s for s in grid.spacing_mm]
        field = field + ndimage.gaussian_filter(weight * left, sigma) / (
            ndimage.gaussian_filter(weight, sigma) + 1e-3
        )
    return np.asarray(
        np.exp(Volume(field.astype(np.float32), grid.affine).on_grid(flair, fill=0.0).array), np.float32
    )


def white_peak(values: Array) -> float:
    """Return the mode of normal-appearing white matter: the fullest narrow window, so that lesions and cortex
    do not pull it up.

    >>> rng = np.random.default_rng(0)
    >>> mixed = np.concatenate([rng.normal(1.0, 0.05, 7000), rng.normal(1.7, 0.1, 3000)])
    >>> abs(white_peak(mixed) - 1.0) < 0.02
    True
    """
    values = values[(values > 0.3 * np.median(values)) & (values < 2.5 * np.median(values))]
    counts, edges = np.histogram(values, bins=200)
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 4)
    at = int(smooth.argmax())
    return float((edges[at] + edges[at + 1]) / 2)


def _learn(even: Array, places: Places) -> tuple[Brightness, Array]:
    """Learn the brightness of tissues; return it with the first candidates."""
    white = even[(places.white > 0.7) & (places.depth_mm > 6)]
    below = white[(white < 1.0) & (white > 0.6)]
    spread = float(np.clip(1.4826 * np.median(1.0 - below), 0.02, 0.2)) if below.size > 100 else 0.1
    ribbon = even[(places.cortex > 0.6) & (even > 0.7) & (even < 1.6)]
    cortex, brightest = (
        (float(v) for v in np.percentile(ribbon, (50, 90))) if ribbon.size > 100 else (1.15, 1.25)
    )
    floor = max(1 + 3 * spread, brightest + spread, 1.2)
    zone = (places.white > 0.35) & (places.cerebrum > 0.5) & (places.depth_mm > 8) & (places.nuclei < 0.5)
    candidates = zone & (even > floor)
    core = ndimage.binary_erosion(candidates, _IN_PLANE)
    seen = even[core] if np.count_nonzero(core) > 30 else even[candidates]
    lesion = float(np.percentile(seen, 60)) if seen.size > 30 else 1.6
    lesion = float(np.clip(lesion, floor + 0.1, 3.0))
    threshold = max(floor, (1 + lesion) / 2)
    return Brightness(spread, cortex, lesion, threshold), candidates


def _keep_white_matter(
    even: Array, candidates: Array, brightness: Brightness, places: Places, grid: Volume
) -> tuple[Array, Array]:
    """Grow candidates to their edge, and drop parts that lie in cortex, septum, ventricles or are single
    noisy voxels.
    """
    bright = (even > brightness.threshold) & (places.cerebrum > 0.5) & (places.brain > 0.5)
    allowed = (places.white > 0.2) & (places.depth_mm > 4) & (places.nuclei < 0.6)
    septum = (places.midline_mm < 4) & (ndimage.gaussian_filter(places.ventricle, 2) > 0.1)
    allowed &= ~septum & ~_inside_fluid(even)
    labels, count = ndimage.label(bright & allowed)
    if count == 0:
        return np.zeros_like(bright), bright
    index = np.arange(1, count + 1)
    size_ml = np.bincount(labels.ravel())[1:] * grid.voxel_ml
    white = ndimage.mean(places.white, labels, index)
    cortex = ndimage.mean((places.cortex > 0.4) & (places.depth_mm < 12), labels, index)
    seeded = ndimage.maximum(candidates, labels, index) > 0
    good = (white > 0.35) & (cortex < 0.5) & seeded & (size_ml > 0.01)
    kept = np.concatenate([[False], good])[labels]
    return kept, bright & ~kept


def _reaching_the_surface(bright: Array, places: Places, grid: Volume) -> Array:
    """Return bright parts of SURFACE_ML or more, a good share of which is near the brain's surface:
    infarcts, no white-matter disease.
    """
    core = ndimage.binary_opening(bright & (places.cerebrum > 0.5) & (places.brain > 0.5), _IN_PLANE)
    labels, count = ndimage.label(core)
    if count == 0:
        return np.zeros_like(bright)
    superficial = ndimage.mean(places.depth_mm < SURFACE_MM, labels, np.arange(1, count + 1))
    size_ml = np.bincount(labels.ravel())[1:] * grid.voxel_ml
    infarct = np.concatenate([[False], (superficial > SURFACE_SHARE) & (size_ml > SURFACE_ML)])
    return np.asarray(ndimage.binary_dilation(infarct[labels], _IN_PLANE, iterations=2))


def _inside_fluid(even: Array) -> Array:
    """Return bright islands that dark fluid surrounds: plexus, and flow in the third and fourth ventricle."""
    fluid = even < 0.55
    closed = np.zeros_like(fluid)
    for z in range(fluid.shape[2]):
        closed[:, :, z] = ndimage.binary_fill_holes(fluid[:, :, z])
    holes, count = ndimage.label(closed & ~fluid)
    sizes = np.bincount(holes.ravel())
    small = sizes < 0.02 * np.prod(fluid.shape[:2])
    small[0] = False
    return np.asarray(small[holes]) if count else closed & ~fluid


def _leave_out(
    kept: Array, excluded: Array, grid: Volume, flair_from_mni: Transform, *, partners: Array
) -> tuple[Array, Array]:
    """Remove what the caller excludes with its rim, and large parts without a partner in the other
    hemisphere.
    """
    dropped = kept & ~_beyond(excluded, kept, grid)
    kept = kept & ~dropped
    lonely = _without_partner(kept, kept | partners, grid, flair_from_mni)
    return kept & ~lonely, dropped | lonely


def _beyond(excluded: Array, kept: Array, grid: Volume) -> Array:
    """Return what lies beyond an excluded region, its uncertain border, and the bright rim that is nothing
    but its edge.

    A lesion that runs into the region is cut there and stays: only parts that hardly reach further than the
    rim go.
    """
    if not excluded.any():
        return kept
    distance = ndimage.distance_transform_edt(~excluded, sampling=grid.spacing_mm)
    left = kept & (distance > EDGE_MM)
    rim = distance <= RIM_MM
    labels, count = ndimage.label((left & ~rim) | ndimage.binary_opening(left, _IN_PLANE))
    in_rim = np.bincount(labels[rim], minlength=count + 1) / np.maximum(
        np.bincount(labels.ravel(), minlength=count + 1), 1
    )
    lasting = in_rim <= RIM_SHARE
    lasting[0] = False
    return np.asarray(lasting[labels])


def _without_partner(kept: Array, partners: Array, grid: Volume, flair_from_mni: Transform) -> Array:
    """Return parts with more than ONE_SIDED_ML around whose mirror image there is little that is bright,
    be it dimly.
    """
    if not kept.any():
        return kept
    mirror = Transform.of(Affine(np.diag([-1.0, 1.0, 1.0, 1.0])))
    across = flair_from_mni @ mirror @ ~flair_from_mni
    sigma = [PARTNER_MM / s for s in grid.spacing_mm]
    own = ndimage.gaussian_filter(kept.astype(np.float32), sigma)
    other = ndimage.gaussian_filter(
        across.pull(grid.with_array(partners.astype(np.float32)), grid).array, sigma
    )
    labels, count = ndimage.label(kept & (other < 3 * PARTNER_SHARE * own))
    surely_ml = np.bincount(labels[other < PARTNER_SHARE * own], minlength=count + 1) * grid.voxel_ml
    large = surely_ml > ONE_SIDED_ML
    large[0] = False
    return np.asarray(large[labels])


def _soft_edge(kept: Array, even: Array, brightness: Brightness, places: Places) -> Array:
    """Return the lesions with one voxel around them in the slice, where brightness tells that a share of
    it is lesion.
    """
    ring = ndimage.binary_dilation(kept, _IN_PLANE) & (places.white > 0.15)
    return np.asarray(kept | (ring & (even > 1 + 1.5 * brightness.white_spread)))


def _judge(brightness: Brightness, places: Places, found: Volume, left_out: Volume) -> Verdict:
    volume = volume_ml(found)
    reasons = [
        Reason(
            "wmh_volume",
            "pass" if volume < 150 else "warn",
            f"{volume:.1f} mL of white-matter hyperintensity",
            volume,
            "mL",
        )
    ]
    seen = float((places.white > 0.5).sum()) * found.voxel_ml
    cover = seen / 420.0  # mL of cerebral white matter in the template at this probability
    enough = cover > 0.6
    reasons.append(
        Reason(
            "white_matter_seen",
            "pass" if enough else "warn",
            f"about {cover:.0%} of the cerebral white matter is in view",
            cover,
        )
    )
    contrast = (brightness.lesion - 1) / brightness.white_spread
    clear = contrast > 4
    text = (
        f"hyperintensities are {brightness.lesion:.2f} times as bright as white matter, {contrast:.1f} of its"
        " standard deviations above"
    )
    reasons.append(Reason("wmh_contrast", "pass" if clear else "warn", text, contrast))
    other = volume_ml(left_out)
    reasons.append(
        Reason(
            "left_out",
            "pass" if other < 15 else "warn",
            f"{other:.1f} mL of bright tissue was judged to be something else",
            other,
            "mL",
        )
    )
    return Verdict(tuple(reasons))
