"""A haematoma in the source head: where it starts, how it spreads, how dense it is, and where it goes on
growing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from ichnos.anatomy import bundles
from ichnos.simulation.disease import clot
from ichnos.simulation.disease.arrival import FAR, HeadCrop, arrival, cropped, narrow_fluid, slowness
from ichnos.simulation.fields import looked_up, sampled, smooth_noise
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import Latent, Tissue
from ichnos.volume import Floats

# Bleeding points, right side, MNI mm: centre and standard deviation along x, y, z. Lobar points are drawn
# from the white matter.
_POINTS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "putamen": ((28.0, 0.0, 2.0), (1.5, 6.0, 3.5)),
    "thalamus": ((12.5, -19.0, 8.0), (2.0, 4.0, 2.5)),
    "cerebellum": ((19.0, -62.0, -36.0), (5.0, 5.0, 3.5)),
    "pons": ((4.0, -28.0, -30.0), (1.5, 2.0, 3.5)),
    "caudate": ((13.0, 12.0, 9.0), (1.0, 4.0, 3.0)),
}
_BLOOD_TISSUES = (
    Tissue.CORTEX,
    Tissue.WHITE,
    Tissue.THALAMUS,
    Tissue.CAUDATE,
    Tissue.PUTAMEN,
    Tissue.PALLIDUM,
    Tissue.HIPPOCAMPUS,
    Tissue.BRAINSTEM,
    Tissue.CEREBELLAR_CORTEX,
    Tissue.CEREBELLAR_WHITE,
)


ANISOTROPY = 1.4  # across strong fibres blood needs so much more time, as a share
# ln of the axes' ratios (mean, standard deviation) before mass effect rounds them: set so that masks on
# slices of 4.5 mm have the elongation and flatness of 525 real ones (`ichnos simulate --check`). Real clots
# of 5 to 15 mL are less elongated (1.47) than those of 15 to 40 mL (1.64).
ELONGATION_LN, FLATNESS_LN = (0.55, 0.3), (0.38, 0.25)
ELONGATION_WITH_VOLUME, _ELONGATION_ML = 0.25, 8.0  # per ln mL, from this volume on
AXES_TURN_RAD = 0.3
SUPERFICIAL_SITES = ("lobar", "cerebellum")


@dataclass(frozen=True, eq=False)
class Lesion:
    """Arrival times and densities on a crop of the source head."""

    crop: HeadCrop
    centre_mm: Floats  # (3,) source mm
    slow: Tensor  # (x, y, z) time per mm that it grew with
    fibre: Tensor  # (3, x, y, z) strongest fibre direction, as long as it is strong (0..1)
    metric: Floats  # (3, 3) in which its growth is round: stretched along the fibres
    into_sulci: bool  # a lobar or cerebellar bleed tears through narrow sulci up to the inner table
    time: Tensor  # (x, y, z) arrival in about mm; a threshold on it is the baseline haematoma
    hu: Tensor  # (x, y, z) density of blood at baseline
    hu_followup: Tensor


def allowed(tissue: Tensor) -> Tensor:
    """Return where parenchymal blood may be (bool).

    >>> allowed(torch.tensor([Tissue.WHITE, Tissue.CSF], dtype=torch.uint8)).tolist()
    [True, False]
    """
    table = torch.zeros(256, dtype=torch.bool)
    table[list(_BLOOD_TISSUES)] = True
    return looked_up(table.to(tissue.device), tissue)


def reachable(lesion: Lesion, tissue: Tensor, spacing_mm: float) -> Tensor:
    """Return where a lesion's blood may be (bool): with narrow sulci, if it tears into them."""
    solid = allowed(tissue)
    return solid | narrow_fluid(tissue, spacing_mm) if lesion.into_sulci else solid


def bleeding_point(head: SourceHead, site: str, side: str, generator: torch.Generator) -> Floats:
    """Draw the bleeding point of a site, source mm."""
    sign = {"left": -1.0, "right": 1.0, "midline": float(torch.randn(1, generator=generator) * 0.3)}[side]
    if site == "lobar":
        return _lobar_point(head, sign, generator)
    centre, spread = _POINTS[site]
    drawn = np.array(centre) + np.array(spread) * torch.randn(3, generator=generator).clamp(-2, 2).numpy()
    target = torch.tensor(
        [sign * drawn[0], drawn[1], drawn[2]], dtype=torch.float32, device=head.codes.device
    )
    distance = ((head.mni_mm - target.reshape(3, 1, 1, 1)) ** 2).sum(0)
    return _position(head, int(distance.argmin()))


def _lobar_point(head: SourceHead, sign: float, generator: torch.Generator) -> Floats:
    x, y, z = head.mni_mm
    ventricle, depth = head.features
    white = head.codes[::2, ::2, ::2] == Tissue.WHITE
    fits = (
        white
        & (sign * x > 14)
        & (z > -18)
        & (depth > 13)
        & (depth < 30)
        & (ventricle > 10)
        & (((x.abs() - 30) ** 2 + y**2 > 26**2) | (z > 34))
    )
    places = fits.reshape(-1).nonzero()[:, 0]
    if len(places) == 0:
        places = white.reshape(-1).nonzero()[:, 0]
    return _position(head, int(places[int(torch.randint(len(places), (1,), generator=generator))]))


def _position(head: SourceHead, flat: int) -> Floats:
    index = np.array(np.unravel_index(flat, tuple(head.features.shape[1:])), np.float64)
    found: Floats = head.feature_affine[:3, :3] @ index + head.feature_affine[:3, 3]
    return found


def grown(
    head: SourceHead,
    table: Tensor,
    latent: Latent,
    centre: Floats,
    *,
    scale: float,
    generator: torch.Generator,
) -> Lesion:
    """Grow a lesion from a bleeding point (source mm). `scale` is patient volume over source volume there."""
    crop = cropped(head, table, centre, half_mm=_half_mm(latent, scale))
    core = (3000 * clot.SOURCE_SHARE * latent.drawn_ich_ml / scale / (4 * np.pi)) ** (1 / 3)
    roughness = 0.62 + 0.2 * float(np.clip(latent.irregularity, -1.6, 2.2))
    into_sulci = latent.site in SUPERFICIAL_SITES
    slow = slowness(crop.tissue, crop.spacing_mm, into_sulci=into_sulci)
    slow = slow * _texture(crop, core, roughness, generator)
    fibre = _fibres(head, crop)
    metric = _metric(fibre, crop, centre, latent.drawn_ich_ml, generator)
    start = _point(crop, centre)
    time = arrival(start, slow, crop.spacing_mm, fibre=fibre, anisotropy=ANISOTROPY, metric=metric)
    # the shortest path evens out what is small: roughen the edge itself
    time = time * torch.exp(0.16 * roughness * _edge_noise(crop, core, generator))
    limit = _limit(time, crop, latent.drawn_ich_ml * clot.SOURCE_SHARE / scale)
    time = _with_islands(time, limit, crop, latent, generator)
    hu, hu_followup = clot.densities(time, crop, latent, centre, generator)
    return Lesion(crop, centre, slow, fibre, metric, into_sulci, _closed(time, crop), hu, hu_followup)


def _half_mm(latent: Latent, scale: float) -> float:
    """Return half the side of the crop in which the lesion has room, at follow-up too."""
    largest_ml = max(latent.drawn_ich_ml, latent.drawn_followup_ich_ml) / scale
    return float(1.75 * (3000 * largest_ml / (4 * np.pi)) ** (1 / 3) + 13)


def _edge_noise(crop: HeadCrop, core_mm: float, generator: torch.Generator) -> Tensor:
    shape, correlation = tuple(crop.tissue.shape), max(3.0, 0.4 * core_mm) / crop.spacing_mm
    device = crop.tissue.device
    return smooth_noise(shape, correlation=correlation, generator=generator, device=device)[0]


def _fibres(head: SourceHead, crop: HeadCrop) -> Tensor:
    """Return the direction of the strongest bundle, its length the square root of its weight (MNI axes
    serve as the head's).
    """
    atlas = bundles.bundles()
    mni = sampled(head.mni_mm, head.feature_affine, crop.points())
    strongest = torch.from_numpy(_strongest()).to(mni)
    return sampled(strongest, atlas.affine, mni)


@lru_cache(maxsize=1)
def _strongest() -> np.ndarray:
    atlas = bundles.bundles()
    best = atlas.weight.argmax(0)[None, None]
    direction = np.take_along_axis(atlas.orientation, best, 0)[0]
    weight = np.take_along_axis(atlas.weight, best[0], 0)
    return np.ascontiguousarray(direction * np.sqrt(weight), np.float32)


def _metric(
    fibre: Tensor, crop: HeadCrop, centre: Floats, ich_ml: float, generator: torch.Generator
) -> Floats:
    """Draw the metric of a bleed's growth: a cigar or a disc along the fibres around the bleeding point.

    Elongation and flatness are ratios of the axes; the axes are those of the fibres' tensor, turned a little.
    """
    away = ((crop.points() - torch.from_numpy(centre).to(fibre).reshape(3, 1, 1, 1)) ** 2).sum(0)
    weight = torch.exp(-away / (2 * 12.0**2))
    tensor = torch.einsum("ixyz,jxyz,xyz->ij", fibre, fibre, weight).double().numpy()
    axes = np.linalg.eigh(tensor + 1e-9 * np.diag([1.0, 3.0, 2.0]))[1][:, ::-1]  # longest first
    draw = torch.randn(5, generator=generator, dtype=torch.float64).numpy()
    turn = Rotation.from_rotvec(AXES_TURN_RAD * draw[:3]).as_matrix()
    with_volume = ELONGATION_WITH_VOLUME * np.clip(np.log(ich_ml / _ELONGATION_ML), -1.0, 1.5)
    longer, flatter = (
        float(np.exp(np.clip(mean + spread * z, 0.0, 1.3)))
        for mean, spread, z in (
            (ELONGATION_LN[0] + with_volume, ELONGATION_LN[1], draw[3]),
            (*FLATNESS_LN, draw[4]),
        )
    )
    middle = (flatter / longer) ** (1 / 3)
    lengths = np.array([longer * middle, middle, middle / flatter])
    metric: Floats = (turn @ axes / lengths) @ (turn @ axes).T
    return metric


def halved(lesion: Lesion) -> Lesion:
    """Return the lesion on every second voxel of its crop, for what is drawn many times."""
    crop, few = lesion.crop, (slice(None, None, 2),) * 3
    affine = crop.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    maps = {name: getattr(lesion, name)[few].contiguous() for name in ("slow", "time", "hu", "hu_followup")}
    small = HeadCrop(affine, crop.tissue[few].contiguous(), 2 * crop.spacing_mm)
    return replace(lesion, crop=small, fibre=lesion.fibre[(slice(None), *few)].contiguous(), **maps)


def grown_later(lesion: Lesion, limit: float, generator: torch.Generator) -> Tensor:
    """Return arrival times of the follow-up: from the baseline's edge (`limit`) blood goes on, faster
    around a hidden new focus.
    """
    crop, inside = lesion.crop, lesion.time <= limit
    if not bool(inside.any()):
        inside = lesion.time <= lesion.time.min()
    focus = _edge_point(inside, crop, generator)
    radius = (3 * float(inside.sum()) * crop.spacing_mm**3 / (4 * np.pi)) ** (1 / 3)
    distance = ((crop.points() - focus.reshape(3, 1, 1, 1)) ** 2).sum(0)
    haste = 1 + 2.2 * torch.exp(-distance / (2 * (0.8 * radius + 4) ** 2))
    slow = lesion.slow * _texture(crop, radius, 0.5, generator) / haste
    onward = arrival(
        torch.where(inside, 0.0, FAR),
        slow,
        crop.spacing_mm,
        fibre=lesion.fibre,
        anisotropy=ANISOTROPY,
        metric=lesion.metric,
    )
    return torch.where(inside, lesion.time - limit, _closed(onward, crop))


def _texture(crop: HeadCrop, radius_mm: float, sigma: float, generator: torch.Generator) -> Tensor:
    """Return a positive random factor on the slowness: lobes of about the lesion's radius, and fingers of
    a third of it.
    """
    device, shape = crop.tissue.device, tuple(crop.tissue.shape)
    scales = [max(radius_mm * share, 3.0) / crop.spacing_mm for share in (1.0, 0.45)]
    lobes, fingers = (
        smooth_noise(shape, correlation=c, generator=generator, device=device)[0] for c in scales
    )
    return torch.exp(sigma * (0.9 * lobes + 0.8 * fingers).clamp(-2.2, 2.2))


def _point(crop: HeadCrop, centre: Floats) -> Tensor:
    """Return start times: zero at the allowed voxels next to the bleeding point."""
    distance = ((crop.points() - torch.from_numpy(centre).to(crop.points()).reshape(3, 1, 1, 1)) ** 2).sum(0)
    distance = torch.where(allowed(crop.tissue), distance, FAR**2)
    return torch.where(distance <= distance.min() + 1e-3, 0.0, FAR)


def _limit(time: Tensor, crop: HeadCrop, source_ml: float) -> float:
    """Return the arrival time by which this volume is filled."""
    voxels = int(np.clip(round(1000 * source_ml / crop.spacing_mm**3), 1, time.numel()))
    reached = time.reshape(-1).kthvalue(voxels).values
    return float(min(float(reached), FAR / 2))


def _edge_point(inside: Tensor, crop: HeadCrop, generator: torch.Generator) -> Tensor:
    """Draw a point of a region's surface, source mm."""
    padded = torch.nn.functional.pad(inside[None, None].float(), (1,) * 6)
    core = -torch.nn.functional.max_pool3d(-padded, 3, 1)[0, 0] > 0.5
    places = (inside & ~core).reshape(-1).nonzero()[:, 0]
    if len(places) == 0:
        places = inside.reshape(-1).nonzero()[:, 0]
    chosen = places[int(torch.randint(len(places), (1,), generator=generator))]
    return crop.points().reshape(3, -1)[:, chosen]


def _with_islands(
    time: Tensor, limit: float, crop: HeadCrop, latent: Latent, generator: torch.Generator
) -> Tensor:
    """Add small separate haematomas for the island (three or more) and satellite (one) signs; they grow
    with the threshold.
    """
    count = (3 if "island" in latent.signs else 0) + (1 if "satellite" in latent.signs else 0)
    radius = (3000 * latent.drawn_ich_ml / (4 * np.pi)) ** (1 / 3)
    points = crop.points()
    for _ in range(count):
        edge = _edge_point(time <= limit, crop, generator)
        inside = time <= limit
        middle = (points * inside).sum((1, 2, 3)) / inside.sum()
        outward = (edge - middle) / (edge - middle).norm().clamp(min=1e-3)
        size, gap = torch.rand(2, generator=generator).tolist()
        blob = (0.14 + 0.08 * size) * radius + 1.0
        place = edge + outward * (blob + 1.5 + 2.0 * gap)
        distance = ((points - place.reshape(3, 1, 1, 1)) ** 2).sum(0).sqrt()
        drop = torch.where(distance < 1.6 * blob, limit * (distance / blob).clamp(min=0.3), FAR)
        time = torch.where(allowed(crop.tissue), torch.minimum(time, drop), time)
    return time


def _closed(time: Tensor, crop: HeadCrop) -> Tensor:
    """Continue arrival times two voxels into what blood cannot enter, so that interpolation beside a wall
    is smooth.
    """
    continued = arrival(time, torch.ones_like(time), crop.spacing_mm, rounds=2)
    return torch.where(time < FAR / 2, time, continued).clamp(max=400.0)


def spread_around(lesion: Lesion, time: Tensor, limit: float) -> Tensor:
    """Return arrival times of oedema from the haematoma's edge: quick in white matter, slow in grey, none
    in fluid (crop grid).
    """
    table = torch.full((256,), 12.0)
    table[[Tissue.WHITE, Tissue.CEREBELLAR_WHITE, Tissue.BRAINSTEM]] = 1.0
    table[[Tissue.PUTAMEN, Tissue.PALLIDUM, Tissue.THALAMUS, Tissue.CAUDATE, Tissue.HIPPOCAMPUS]] = 1.6
    table[[Tissue.CORTEX, Tissue.CEREBELLAR_CORTEX]] = 2.6
    slow = looked_up(table.to(time.device), lesion.crop.tissue)
    return arrival(torch.where(time <= limit, 0.0, FAR), slow, lesion.crop.spacing_mm, rounds=24).clamp(
        max=200.0
    )


def at(lesion: Lesion, field: Tensor, source_mm: Tensor, *, fill: float) -> Tensor:
    """Return a map of the crop at source points (3, X, Y, Z)."""
    return sampled(field[None], lesion.crop.affine, source_mm, fill=fill)[0]
