"""A head grown around the MNI152 brain: the template is skull-stripped, so skull, scalp, face, dura and
vessels are built here.

All places are MNI mm, measured on the template and on head CTs in general; a wall is a distance from the
brain's closed surface.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import edt
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage

from ichnos.anatomy import mni
from ichnos.simulation.heads.source import FEATURE_STEP, SourceHead, feature_affine_of, finished
from ichnos.simulation.heads.store import kept
from ichnos.simulation.patient import Tissue
from ichnos.volume import Volume

_Mask = npt.NDArray[np.bool_]
_Field = npt.NDArray[np.float32]

_FIRST_MM, _SHAPE = (-96, -132, -96), (193, 245, 205)
_BRAIN = {
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


_IN_MEMORY: list[SourceHead] = []


def mni_head(cache: Path | None = None) -> SourceHead:
    """Return the head grown around the MNI152 template: computed once, in some seconds, or read from the
    folder `cache`.
    """
    if not _IN_MEMORY:
        _IN_MEMORY.append(kept(cache, "mni152", b"nilearn", _grown_head))
    return _IN_MEMORY[0]


def _grown_head() -> SourceHead:
    affine = np.eye(4)
    affine[:3, 3] = _FIRST_MM
    grid = Volume(np.broadcast_to(np.uint8(0), _SHAPE), affine)
    brain = _brain_on(grid)
    xyz = mni.coordinates(grid)
    out = _skull_and_skin(brain, xyz)
    _face(out, xyz)
    inside = brain > 0
    out[inside] = brain[inside]
    _dura_and_vessels(out, xyz)
    coarse = xyz[:, ::FEATURE_STEP, ::FEATURE_STEP, ::FEATURE_STEP]
    assert np.allclose(feature_affine_of(affine)[:3, 3], coarse[:, 0, 0, 0])
    return finished("mni152", out, affine, np.ascontiguousarray(coarse), fluid=_fluid(grid))


def _brain_on(grid: Volume) -> npt.NDArray[np.uint8]:
    structures = mni.structures()
    table = np.zeros(256, np.uint8)
    for code, tissue in _BRAIN.items():
        table[code] = tissue
    start = np.round(grid.index(structures.world((0, 0, 0)))).astype(int)
    out = np.zeros(grid.shape, np.uint8)
    lo = np.maximum(start, 0)
    hi = np.minimum(start + structures.shape, grid.shape)
    source = structures.array[tuple(slice(a - s, b - s) for a, b, s in zip(lo, hi, start, strict=True))]
    out[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))] = table[source]
    out[_choroid(out, mni.coordinates(grid))] = Tissue.CHOROID
    return out


def _fluid(grid: Volume) -> _Field:
    """Return how much fluid each voxel of the template's cortex holds, 0..1: its sulci are blurred, but
    dark on T1.
    """
    t1 = mni.template("t1").on_grid(grid)
    share: _Field = np.clip((165 - t1.array) / 55, 0, 1).astype(np.float32)
    return share


def _choroid(out: npt.NDArray[np.uint8], xyz: _Field) -> _Mask:
    x, y, z = xyz
    glomus = _ellipsoid(xyz, (22, -39, 10), (3.5, 4.5, 5.0))
    strip = (
        (np.abs(np.abs(x) - (4 + 0.35 * np.clip(10 - y, 0, 50))) < 1.2)
        & (y > -38)
        & (y < 8)
        & (z > 8)
        & (z < 20)
    )
    found: _Mask = (out == Tissue.VENTRICLE) & (glomus | strip)
    return found


_Point = tuple[float, float, float]


def _box(low: _Point, high: _Point) -> tuple[slice, slice, slice]:
    """Return the part of the grid between two corners, MNI mm, with a voxel to spare."""
    x, y, z = (
        slice(max(0, int(np.floor(a)) - f - 1), min(n, int(np.ceil(b)) - f + 2))
        for a, b, f, n in zip(low, high, _FIRST_MM, _SHAPE, strict=True)
    )
    return x, y, z


def _ellipsoid(xyz: _Field, centre: _Point, half: _Point, *, both: bool = True) -> _Mask:
    """Return an ellipsoid, on both sides unless told otherwise."""
    found = np.zeros(_SHAPE, bool)
    for sign in (1, -1) if both else (1,):
        middle = (sign * centre[0], centre[1], centre[2])
        box = _box(
            *[(middle[0] + s * half[0], middle[1] + s * half[1], middle[2] + s * half[2]) for s in (-1, 1)]
        )
        x, y, z = xyz[(slice(None), *box)]
        found[box] |= ((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2 + (
            (z - middle[2]) / half[2]
        ) ** 2 < 1
    return found


def _tube(xyz: _Field, points: list[_Point], radius_mm: float) -> _Mask:
    """Return a tube along a polyline, on both sides."""
    found = np.zeros(_SHAPE, bool)
    for sign in (1, -1):
        for a, b in pairwise((sign * x, y, z) for x, y, z in points):
            start, along = np.array(a), np.array(b) - np.array(a)
            low, high = np.minimum(a, b) - radius_mm, np.maximum(a, b) + radius_mm
            box = _box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
            p = np.moveaxis(xyz[(slice(None), *box)], 0, -1) - start
            t = np.clip(p @ along / (along @ along), 0, 1)
            found[box] |= np.linalg.norm(p - t[..., None] * along, axis=-1) <= radius_mm
    return found


def _texture(shape: tuple[int, ...], seed: int, sigma: float) -> _Field:
    """Return fixed smooth noise of unit variance; the grown head is always the same."""
    coarse = np.random.default_rng(seed).normal(size=[int(n / sigma) + 3 for n in shape]).astype(np.float32)
    grown = F.interpolate(
        torch.from_numpy(coarse)[None, None], size=list(shape), mode="trilinear", align_corners=True
    )[0, 0].numpy()
    texture: _Field = (grown / grown.std()).astype(np.float32)
    return texture


def _skull_and_skin(brain: npt.NDArray[np.uint8], xyz: _Field) -> npt.NDArray[np.uint8]:
    """Wrap the closed brain in fluid, inner table, diploe, outer table, fat and scalp; below, fill the
    neck and the face.
    """
    _, y, z = xyz
    closed = _closed_brain(brain, z)
    wall = ndimage.gaussian_filter(edt.edt(~closed, parallel=1), 1.5)
    wall += 0.35 * _texture(brain.shape, 1, 14.0)
    vault = np.clip((z + 0.25 * y + 25) / 25, 0, 1)
    diploe = (3.2 + 0.8 * _texture(brain.shape, 2, 20.0)) * vault
    table = 1.7 + 0.5 * (1 - vault)
    skull = 2 * table + diploe
    skin = 5.0 + 2.5 * (1 - vault) + 0.8 * _texture(brain.shape, 3, 30.0)
    out = np.zeros(brain.shape, np.uint8)
    head = (wall < skull + skin) | _soft_parts(xyz)
    out[head] = Tissue.MUSCLE
    out[(wall < skull + skin - 1.8) & (z > -25)] = Tissue.FAT
    temporalis = _ellipsoid(xyz, (68, 18, -8), (16, 42, 38))
    out[temporalis & (wall < skull + 7) & head] = Tissue.MUSCLE
    out[head & (edt.edt(head, parallel=1) <= 2.2)] = Tissue.SCALP
    bony, marrow = wall < skull, (wall > table) & (wall < table + diploe) & (diploe > 1)
    out[bony] = np.where(marrow, Tissue.DIPLOE, Tissue.BONE)[bony]
    out[closed] = Tissue.CSF
    _spine(out, brain, xyz)
    return out


def _closed_brain(brain: npt.NDArray[np.uint8], z: _Field) -> _Mask:
    """Close sulci and fissures up to 30 mm wide; 1.6 mm of fluid remain over the gyri."""
    outside = edt.edt(brain == 0, parallel=1)
    closed: _Mask = edt.edt(outside < 17, parallel=1) > 15.4
    closed &= (outside < 7) | (z > 40)  # the base keeps its hollows, the vault is round
    closed |= outside < 1.2
    return closed


def _spine(out: npt.NDArray[np.uint8], brain: npt.NDArray[np.uint8], xyz: _Field) -> None:
    """Lay the fluid of the spinal canal below the brain, and the bone around it."""
    x, y, z = xyz
    canal = ((x / 15) ** 2 + ((y + 42) / 14) ** 2 < 1) & (z < -62)
    out[canal & (brain == 0)] = Tissue.CSF
    ring = ((x / 20) ** 2 + ((y + 43) / 19) ** 2 < 1) & ~canal & (z < -70)
    out[ring] = Tissue.BONE


def _soft_parts(xyz: _Field) -> _Mask:
    x, y, z = xyz
    face = _ellipsoid(xyz, (0, 36, -58), (66, 60, 66)) & (z < 0)
    nose = _ellipsoid(xyz, (0, 92, -68), (13, 16, 22))
    neck: _Mask = ((x / 62) ** 2 + ((y + 38) / 62) ** 2 < 1) & (z < -40)
    soft: _Mask = face | nose | neck
    return soft


def _face(out: npt.NDArray[np.uint8], xyz: _Field) -> None:
    """Put orbits, sinuses, nose, petrous bones and mastoids into the base."""
    x, y, z = xyz
    a = np.abs(x)
    head = out > 0
    base = (z < -22) & (z > -50) & (y > -28) & (y < 62) & (a < 52) & (out != Tissue.CSF)
    out[base & head & (a < 30)] = Tissue.BONE
    out[_ellipsoid(xyz, (48, 30, -50), (6, 22, 10)) & head] = Tissue.BONE  # zygoma
    # pterygoid and jaw joint region
    out[_ellipsoid(xyz, (0, 10, -78), (40, 14, 6)) & head & (a > 14)] = Tissue.BONE
    _petrous(out, xyz)
    _orbits(out, xyz, head)
    _sinuses(out, xyz)


def _orbits(out: npt.NDArray[np.uint8], xyz: _Field, head: _Mask) -> None:
    """Put cones of bone, fat and four straight muscles around nerve and eye."""
    here = _box((-56, 16, -60), (56, 90, -12))
    nerve = _tube(xyz, [(12, 18, -31), (20, 34, -34), (31, 52, -37)], 2.2)[here]
    eye, lens = _ellipsoid(xyz, (33, 62, -37), (12, 12, 12)), _ellipsoid(xyz, (33, 71, -37), (4.5, 2.2, 4.5))
    lid = _ellipsoid(xyz, (33, 75, -37), (13, 2.5, 11))[here]
    out, head, (x, y, z) = out[here], head[here], xyz[(slice(None), *here)]
    a = np.abs(x)
    depth = np.clip((y - 18) / 44, 0, 1)  # 0 at the apex, 1 at the eye
    orbit_x, orbit_z, orbit_r = 12 + 21 * depth, -32 - 5 * depth, 4 + 13.5 * np.sqrt(depth)
    radial = np.sqrt((a - orbit_x) ** 2 + ((z - orbit_z) / 0.95) ** 2)
    orbit = (y > 18) & (y < 82) & head & (out != Tissue.CSF)
    out[orbit & (radial < orbit_r + 2.0) & (y < 68)] = Tissue.BONE
    out[orbit & (radial < orbit_r) & (out != Tissue.AIR)] = Tissue.FAT
    for angle in np.radians([0, 90, 180, 270]):
        across = a - orbit_x - 0.72 * orbit_r * np.cos(angle)
        along = z - orbit_z - 0.72 * orbit_r * np.sin(angle)
        out[orbit & (np.hypot(across, along) < 1.8) & (y < 58)] = Tissue.MUSCLE
    out[nerve & orbit] = Tissue.OPTIC_NERVE
    out[eye[here]] = Tissue.EYE
    out[lens[here]] = Tissue.LENS
    out[lid & (out != Tissue.EYE) & (out != Tissue.LENS)] = Tissue.SCALP


def _petrous(out: npt.NDArray[np.uint8], xyz: _Field) -> None:
    """Put petrous bones and clivus, mastoids with their cells, and the canals of the ears."""
    here = _box((-96, -64, -72), (96, 8, -30))
    mastoid = _ellipsoid(xyz, (55, -38, -52), (10, 15, 17))[here]
    celled = _ellipsoid(xyz, (55, -38, -50), (7, 11, 13))[here]
    ear = _tube(xyz, [(44, -24, -43), (62, -24, -43), (90, -24, -44)], 3.0)[here]
    inner_ear = _tube(xyz, [(20, -31, -38), (34, -29, -40)], 2.0)[here]
    cells = (_texture(out.shape, 4, 2.2) > 0.0)[here]
    out, (x, y, z) = out[here], xyz[(slice(None), *here)]
    a = np.abs(x)
    turn = np.radians(38)
    along = (a - 34) * np.cos(turn) - (y + 28) * np.sin(turn)
    across = (a - 34) * np.sin(turn) + (y + 28) * np.cos(turn)
    pyramid = ((along / 30) ** 2 + (across / 9.5) ** 2 + ((z + 43) / 10) ** 2 < 1) & (out > 0)
    out[pyramid] = Tissue.BONE
    clivus = (a < 13) & (np.abs(y + 6 - 0.55 * (z + 40)) < 6) & (z < -32) & (z > -64) & (out > 0)
    out[clivus] = Tissue.BONE
    out[mastoid & (out > 0)] = Tissue.BONE
    out[celled & cells & (out == Tissue.BONE)] = Tissue.AIR_CELL
    out[ear & (out > 0)] = Tissue.AIR_CELL
    out[inner_ear & (out == Tissue.BONE)] = Tissue.CSF


def _sinuses(out: npt.NDArray[np.uint8], xyz: _Field) -> None:
    x, y, z = xyz
    a = np.abs(x)
    walls = np.abs(np.mod(y + 2 * np.sin(z / 3), 8) - 4) > 0.7
    ethmoid = (a < 10.5) & (a > 1.2) & (y > 26) & (y < 66) & (z > -56) & (z < -33)
    air = ethmoid & walls
    air |= _ellipsoid(xyz, (7.5, 12, -40), (7.0, 10, 8.5))  # sphenoid
    air |= _ellipsoid(xyz, (27, 46, -68), (11, 15, 14))  # maxillary
    air |= _ellipsoid(xyz, (10, 78, -20), (9, 3.6, 11)) & (out == Tissue.BONE)  # frontal
    shell = (
        ndimage.binary_dilation(air, iterations=1)
        & (out > 0)
        & ~np.isin(out, (Tissue.FAT, Tissue.EYE, Tissue.OPTIC_NERVE, Tissue.CSF))
    )
    out[shell] = Tissue.BONE
    nose = (a < 13) & (y > 22) & (y < 84) & (z > -88) & (z < -56)
    out[nose & (out > 0)] = Tissue.MUCOSA
    meatus = nose & (a > 1.5) & (np.abs(np.mod(z + 0.4 * a, 9) - 4.5) > 2.6)
    out[meatus & (out > 0)] = Tissue.AIR_CELL
    out[air & (out > 0) & ~np.isin(out, (Tissue.FAT, Tissue.EYE, Tissue.CSF))] = Tissue.AIR_CELL
    out[_ellipsoid(xyz, (0, 22, -92), (14, 26, 9)) & (out > 0)] = Tissue.AIR_CELL  # pharynx


def _dura_and_vessels(out: npt.NDArray[np.uint8], xyz: _Field) -> None:
    """Lay falx, tentorium, venous sinuses and the large arteries into the fluid and the outermost cortex."""
    cavity = np.isin(out, tuple(_BRAIN.values()))
    depth = edt.edt(cavity, parallel=1)
    out[_falx_and_tentorium(out, xyz)] = Tissue.DURA
    for sinus in _venous_sinuses(xyz, depth):
        out[sinus & cavity & (out != Tissue.WHITE)] = Tissue.VENOUS_SINUS
    basilar = _tube(xyz, [(0, -4, -28), (0, -8, -42), (3, -14, -54)], 1.5)
    carotids = _tube(xyz, [(8, 4, -22), (10, 2, -15), (28, 2, -14)], 1.3)
    out[(basilar | carotids) & (out == Tissue.CSF)] = Tissue.ARTERY


def _falx_and_tentorium(out: npt.NDArray[np.uint8], xyz: _Field) -> _Mask:
    x, y, z = xyz
    a = np.abs(x)
    callosum = np.interp(y[:1, :, :1], [-110, -60, -45, -20, 10, 32, 45], [0, 4, 22, 32, 28, 12, -8])
    soft = np.isin(out, (Tissue.CSF, Tissue.CORTEX))
    falx = (a < 0.8) & soft & (z > callosum + 4) & (y > -105) & (y < 62)
    notch = np.clip(11 + 0.9 * np.clip(y + 46, -30, 40), 0, 28)
    cerebellum = (Tissue.CEREBELLAR_CORTEX, Tissue.CEREBELLAR_WHITE)
    passable = np.isin(out, (Tissue.CSF, Tissue.CORTEX, Tissue.WHITE, *cerebellum))  # one sheet, no holes
    tentorium = (
        (np.abs(z - mni.tentorium_mm(x[..., :1], y[..., :1])) < 0.9) & (y < -24) & (a > notch) & passable
    )
    dura: _Mask = falx | tentorium
    return dura


def _venous_sinuses(xyz: _Field, depth: _Field) -> tuple[_Mask, ...]:
    """Return sagittal, transverse, sigmoid and straight sinus, at their depth under the skull."""
    x, y, z = xyz
    a = np.abs(x)
    narrowing = a < 1.2 + 0.7 * np.clip(5.5 - depth, 0, 4.5)
    sagittal = narrowing & (depth < 5.5) & (z > -12) & ((z > 30) | (y < -40))
    transverse = (
        (np.abs(z - mni.tentorium_mm(x[..., :1], y[..., :1])) < 3.2) & (depth < 4.8) & (y < -42) & (a < 62)
    )
    sigmoid = _tube(xyz, [(60, -52, -24), (52, -48, -42), (40, -44, -56)], 4.0) & (depth < 6)
    straight = _tube(xyz, [(0, -42, 6), (0, -62, -3), (0, -92, -12)], 1.9)
    return sagittal, transverse, sigmoid, straight
