"""Source heads from FreeSurfer- and SynthSeg-style label maps of whole heads, placed in MNI space by their
own structures.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.errors import InputRefused
from ichnos.simulation.heads.source import SourceHead, feature_affine_of, finished
from ichnos.simulation.heads.store import kept
from ichnos.simulation.patient import Tissue
from ichnos.volume import Floats, Volume

Labels = npt.NDArray[np.int32]

_BOTH_SIDES: dict[Tissue, tuple[int, ...]] = {
    Tissue.WHITE: (
        2,
        41,
        25,
        57,
        30,
        62,
        77,
        78,
        79,
        250,
        251,
        252,
        253,
        254,
        255,
    ),  # with lesion-like islands, vessels, callosum
    Tissue.CORTEX: (3, 42),
    Tissue.VENTRICLE: (4, 43, 5, 44, 14, 15, 72),
    Tissue.CEREBELLAR_WHITE: (7, 46),
    Tissue.CEREBELLAR_CORTEX: (8, 47),
    Tissue.THALAMUS: (9, 48, 10, 49),
    Tissue.CAUDATE: (11, 50, 26, 58),
    Tissue.PUTAMEN: (12, 51),
    Tissue.PALLIDUM: (13, 52),
    Tissue.BRAINSTEM: (16, 28, 60, 85, 512),  # with ventral diencephalon, chiasm, spinal cord
    Tissue.HIPPOCAMPUS: (17, 53, 18, 54),
    Tissue.CSF: (24, 122),
    Tissue.CHOROID: (31, 63, 136, 163, 137, 164),  # islands inside the atria and the inferior horns
    Tissue.ARTERY: (502,),
    Tissue.EYE: (506,),
    Tissue.MUSCLE: (507, 530),
    Tissue.OPTIC_NERVE: (508,),
    Tissue.MUCOSA: (509,),
    Tissue.SCALP: (511,),
    Tissue.VENOUS_SINUS: (514,),
    Tissue.BONE: (515,),
    Tissue.DIPLOE: (516,),
    Tissue.AIR: (0,),
}
TISSUE_OF: dict[int, Tissue] = {label: tissue for tissue, labels in _BOTH_SIDES.items() for label in labels}

# Landmarks for the placement: the middle of a structure on the left (with FreeSurfer's left labels) and on
# the right.
_LANDMARKS: dict[int, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    mni.THALAMUS: (3, (10,), (49,)),
    mni.CAUDATE: (2, (11, 26), (50, 58)),
    mni.PUTAMEN: (3, (12,), (51,)),
    mni.PALLIDUM: (3, (13,), (52,)),
    mni.HIPPOCAMPUS: (1, (17, 18), (53, 54)),
    mni.WHITE: (2, (2,), (41,)),
    mni.CORTEX: (2, (3,), (42,)),
    mni.CEREBELLAR_CORTEX: (1, (8,), (47,)),
}
_CONTRAST = {  # grey values for the deformable step, far apart where a border must be met
    mni.CSF: 0.1,
    mni.VENTRICLE: 0.0,
    mni.CORTEX: 0.5,
    mni.WHITE: 1.0,
    mni.THALAMUS: 0.45,
    mni.CAUDATE: 0.5,
    mni.PUTAMEN: 0.5,
    mni.PALLIDUM: 0.6,
    mni.HIPPOCAMPUS: 0.5,
    mni.BRAINSTEM: 0.9,
    mni.CEREBELLAR_CORTEX: 0.55,
    mni.CEREBELLAR_WHITE: 0.9,
}


def head_files(folder: Path) -> tuple[Path, ...]:
    """Return the label maps of a folder, sorted by name; refuse a folder without any."""
    files = tuple(sorted(p for p in folder.glob("*.nii*") if p.is_file())) if folder.is_dir() else ()
    if not files:
        raise InputRefused(
            f"{folder} holds no label maps; a folder with FreeSurfer-style NIfTI files (.nii, .nii.gz) is"
            " expected"
        )
    return files


@lru_cache(maxsize=4)
def labelled_head(path: Path, cache: Path | None = None) -> SourceHead:
    """Return a source head from one label map: placed in MNI space in some seconds, or read from the folder
    `cache`.

    The last four stay in memory.
    """
    import nibabel

    name = path.name.split(".")[0]

    def placed() -> SourceHead:
        return head_from_labels(name, Volume.from_nibabel(nibabel.load(path)).reoriented("RAS"))

    return kept(cache, name, path.read_bytes() if cache else b"", placed)


def head_from_labels(name: str, volume: Volume) -> SourceHead:
    """Return a source head from labels (RAS, 1 mm); every label must be known."""
    if any(abs(s - 1) > 0.1 for s in volume.spacing_mm):
        size = " x ".join(f"{s:.2f}" for s in volume.spacing_mm)
        raise InputRefused(
            f"the label map {name} has voxels of {size} mm; 1 mm on every side is expected: resample it first"
        )
    labels = np.round(volume.array).astype(np.int32)
    _check_labels(name, labels)
    codes = _air_filled(_codes_of(labels))
    mni_from_head = _affine_to_mni(name, labels, volume.affine)
    upright = _rotation_of(mni_from_head) @ volume.affine
    in_mni = mni_from_head @ volume.affine @ np.linalg.inv(upright)
    _add_falx(codes, in_mni @ upright)
    start, codes = _tight(codes)
    affine = upright.copy()
    affine[:3, 3] = (upright @ np.array([*start, 1.0]))[:3]
    return finished(name, codes, affine, _deformed_to_mni(codes, affine, in_mni))


def _tight(codes: npt.NDArray[np.uint8]) -> tuple[tuple[int, ...], npt.NDArray[np.uint8]]:
    """Return the index of the first voxel kept, and the head with one voxel of air around it."""
    box = ndimage.find_objects((codes > 0).astype(np.uint8))[0]
    return tuple(s.start - 1 for s in box), np.pad(codes[box], 1)


def _check_labels(name: str, labels: Labels) -> None:
    unknown = sorted(set(np.unique(labels).tolist()) - set(TISSUE_OF))
    if unknown:
        listed = ", ".join(map(str, unknown[:8]))
        raise InputRefused(
            f"the label map {name} holds {len(unknown)} label(s) without a known tissue: {listed}; FreeSurfer"
            " numbers with SynthSeg's head labels are expected, so relabel them, or leave this file out"
        )


def _codes_of(labels: Labels) -> npt.NDArray[np.uint8]:
    table = np.zeros(max(TISSUE_OF) + 1, np.uint8)
    for label, tissue in TISSUE_OF.items():
        table[label] = tissue
    return table[labels]


def _air_filled(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Name enclosed zeros: air where they touch mucosa or the bones of the base, else the nearest tissue,
    so that no hole is left.
    """
    labels, _ = ndimage.label(codes == 0)
    outside = np.unique(
        np.concatenate(
            [
                labels[s].ravel()
                for s in ((0,), (-1,), (slice(None), 0), (slice(None), -1), (..., 0), (..., -1))
            ]
        )
    )
    enclosed = (codes == 0) & ~np.isin(labels, outside)
    if not enclosed.any():
        return codes
    top_of_base = float(np.nonzero(codes == Tissue.BRAINSTEM)[2].max()) - 15
    out = codes.copy()
    nearest = ndimage.distance_transform_edt(codes == 0, return_distances=False, return_indices=True)
    out[enclosed] = codes[tuple(nearest)][enclosed]
    bony = np.isin(out, (Tissue.BONE, Tissue.DIPLOE, Tissue.MUCOSA)) & enclosed
    out[bony & (np.arange(codes.shape[2]) < top_of_base)] = Tissue.AIR_CELL
    return out


def _affine_to_mni(name: str, labels: Labels, affine: Floats) -> Floats:
    """Return MNI mm from head mm by least squares over the middles of structures."""
    here, there, weights = [], [], []
    structures = mni.structures()
    x = mni.coordinates(structures)[0]
    for code, (weight, left, right) in _LANDMARKS.items():
        for members, side in ((left, x < 0), (right, x > 0)):
            found = np.isin(labels, members)
            if not found.any():
                raise InputRefused(
                    f"the label map {name} lacks label {members[0]}, which is needed to place it in MNI space"
                )
            here.append(affine @ np.array([*ndimage.center_of_mass(found), 1.0]))
            there.append(structures.world(ndimage.center_of_mass((structures.array == code) & side)))
            weights.append(weight)
    w = np.sqrt(np.array(weights, np.float64))[:, None]
    solution = np.linalg.lstsq(w * np.array(here), w * np.array(there), rcond=None)[0]
    return np.vstack([solution.T, [0, 0, 0, 1.0]])


def _rotation_of(mni_from_head: Floats) -> Floats:
    """Return the rigid part: upright, with MNI's origin at zero, sizes kept."""
    u, _, v = np.linalg.svd(mni_from_head[:3, :3])
    out = np.eye(4)
    out[:3, :3] = u @ v
    origin = np.linalg.inv(mni_from_head) @ np.array([0, 0, 0, 1.0])
    out[:3, 3] = -out[:3, :3] @ origin[:3]
    return out


def _add_falx(codes: npt.NDArray[np.uint8], mni_from_index: Floats) -> None:
    index = np.stack(np.nonzero((codes == Tissue.CSF) | (codes == Tissue.CORTEX)))
    x, y, z = mni_from_index[:3, :3] @ index + mni_from_index[:3, 3:]
    callosum = np.interp(y, [-110, -60, -45, -20, 10, 32, 45], [0, 4, 22, 32, 28, 12, -8])
    falx = (np.abs(x) < 0.8) & (z > callosum + 5) & (y > -100) & (y < 62)
    codes[tuple(index[:, falx])] = Tissue.DURA


def _deformed_to_mni(
    codes: npt.NDArray[np.uint8], affine: Floats, mni_from_head: Floats
) -> npt.NDArray[np.float32]:
    """Return MNI mm on the feature grid: the affine, refined by demons between pictures of the structures
    at 3 mm.
    """
    step = 3
    fixed = _picture(codes, {t: _CONTRAST[c] for c, t in _SAME.items()})[::step, ::step, ::step]
    grid = np.stack(np.meshgrid(*[np.arange(n) * step for n in fixed.shape], indexing="ij")).astype(
        np.float64
    )
    to_mni = mni_from_head @ affine
    start = np.einsum("ij,jxyz->ixyz", to_mni[:3, :3], grid) + to_mni[:3, 3].reshape(3, 1, 1, 1)
    structures = mni.structures()
    moving = ndimage.gaussian_filter(_picture(structures.array, _CONTRAST), 1.0)
    fixed = ndimage.gaussian_filter(fixed, 0.5)
    field = _demons(fixed, moving, structures, start)
    target = feature_affine_of(affine)
    shape = [len(range(0, n, 2)) for n in codes.shape]
    ratio = np.linalg.inv(affine) @ target / step
    zoomed = [
        ndimage.affine_transform(f, np.diag(ratio)[:3], output_shape=shape, order=1, mode="nearest")
        for f in field
    ]
    return np.stack(zoomed).astype(np.float32)


_SAME = {
    mni.CSF: Tissue.CSF,
    mni.VENTRICLE: Tissue.VENTRICLE,
    mni.CORTEX: Tissue.CORTEX,
    mni.WHITE: Tissue.WHITE,
    mni.THALAMUS: Tissue.THALAMUS,
    mni.CAUDATE: Tissue.CAUDATE,
    mni.PUTAMEN: Tissue.PUTAMEN,
    mni.PALLIDUM: Tissue.PALLIDUM,
    mni.HIPPOCAMPUS: Tissue.HIPPOCAMPUS,
    mni.BRAINSTEM: Tissue.BRAINSTEM,
    mni.CEREBELLAR_CORTEX: Tissue.CEREBELLAR_CORTEX,
    mni.CEREBELLAR_WHITE: Tissue.CEREBELLAR_WHITE,
}


def _picture(
    codes: npt.NDArray[np.uint8], values: dict[int, float] | dict[Tissue, float]
) -> npt.NDArray[np.float32]:
    table = np.full(256, 0.1, np.float32)
    for code, value in values.items():
        table[code] = value
    picture: npt.NDArray[np.float32] = table[codes]
    return picture


def _demons(
    fixed: npt.NDArray[np.float32],
    moving: npt.NDArray[np.float32],
    space: Volume,
    start: Floats,
    *,
    rounds: int = 50,
) -> Floats:
    """Return start + smooth displacement (3, x, y, z), MNI mm, that makes the moving picture look like the
    fixed one.
    """
    step_mm = 3.0
    shift = np.zeros_like(start)
    inverse = np.linalg.inv(space.affine)
    for _ in range(rounds):
        index = np.einsum("ij,jxyz->ixyz", inverse[:3, :3], start + shift) + inverse[:3, 3].reshape(
            3, 1, 1, 1
        )
        warped = ndimage.map_coordinates(moving, index, order=1, mode="nearest")
        difference = fixed - warped
        slope = np.stack(np.gradient(warped)) / step_mm
        force = slope * (difference / ((slope**2).sum(0) + (difference / step_mm) ** 2 + 1e-4))
        moved = ndimage.gaussian_filter(force, (0, 1.0, 1.0, 1.0))
        shift = ndimage.gaussian_filter(shift + np.clip(moved, -1.5, 1.5), (0, 1.2, 1.2, 1.2))
    result: Floats = start + shift
    return result
