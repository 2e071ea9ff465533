"""Whether synthetic images are copies of the images they were made from, moved, turned, rescaled or not.

Every synthetic image is aligned with its likeliest originals over rotations, scales, mirroring and shifts;
the best normalised correlation is its similarity. Real images of other patients, aligned the same way, say
how similar an image may be without being a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichnos.arrays import Array, Floats, Floats32
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.discrimination import Auc, auc
from ichnos.evidence.metrics.intervals import Estimate, proportion

SIDE = 32  # pixels to which images are reduced
_Pose = tuple[bool, float, float]  # mirrored, turned by degrees, rescaled
_COARSE: tuple[_Pose, ...] = tuple(
    (mirror, float(turn), scale)
    for mirror in (False, True)
    for turn in range(-15, 16, 5)
    for scale in (0.9, 0.95, 1.0, 1.05, 1.1)
)
_FINE_TURNS_DEG, _FINE_SCALES = (-2.5, -1.25, 0.0, 1.25, 2.5), (-0.025, 0.0, 0.025)
_REFINED = 3  # originals that are aligned more finely
MOST_SHIFT = 0.14  # of the image's side, in either direction
FALSE_ALARMS = 0.01  # share of other patients' images that may be called copies
_COARSE_PX = 6.0  # of the reduced image: structure coarser than this is common to all slices
_CANDIDATES = 24  # likeliest originals, which are aligned
_CONFIDENCE = 0.95  # that no more than FALSE_ALARMS lie above the limit, which few others place badly


@dataclass(frozen=True)
class CopyCheck:
    """What the search for copies found."""

    copies: Estimate  # share of synthetic images that are copies
    similarity: float  # from here on an image is a copy, 0 to 1
    median_synthetic: float  # similarity of a synthetic image to its nearest original
    median_others: float  # of another patient's image to its nearest original
    false_alarms: Estimate  # share of the other patients' images at or above the limit


def find_copies(
    synthetic: Floats32, originals: Floats32, others: Floats32, *, most: int | None = None
) -> CopyCheck:
    """Search for copies of `originals` among synthetic images (n, side, side); `others` are real images of
    patients who were not trained on. With `most`, so many of each kind are looked at, evenly spread, each
    against all originals; without it every image is.
    """
    for name, part in (("synthetic", synthetic), ("original", originals), ("held-out", others)):
        if len(part) == 0:
            raise InputRefused(f"there is no {name} image, so copies cannot be looked for")
    if len(others) < 20:
        raise InputRefused(
            f"{len(others)} held-out images cannot say how similar other patients are; 20 are the least"
        )
    own, elsewhere = (nearest_similarity(_some(part, most), originals) for part in (synthetic, others))
    limit = similarity_limit(elsewhere)
    return CopyCheck(
        proportion(int((own >= limit).sum()), len(own)),
        limit,
        float(np.median(own)),
        float(np.median(elsewhere)),
        proportion(int((elsewhere >= limit).sum()), len(elsewhere)),
    )


def similarity_limit(others: npt.ArrayLike) -> float:
    """Return the similarity from which an image is a copy: far in the tail of other patients' images.

    >>> 0.75 < similarity_limit(np.random.default_rng(0).normal(0.5, 0.06, 200)) < 0.9
    False
    """
    z = np.arctanh(np.clip(np.asarray(others, float), -0.999, 0.999))
    tail = z.mean() + _tolerance_factor(z.size) * z.std(ddof=1)
    return float(np.tanh(max(tail, np.quantile(z, 1 - FALSE_ALARMS))))


def _tolerance_factor(n: int) -> float:
    """Return by how many standard deviations a one-sided tolerance limit of n normal values lies above their
    mean (Natrella 1963, Experimental Statistics, NBS Handbook 91): 2.33 for very many.
    """
    from scipy.special import ndtri

    share, sure = float(ndtri(1 - FALSE_ALARMS)), float(ndtri(_CONFIDENCE))
    a, b = 1 - sure**2 / (2 * (n - 1)), share**2 - sure**2 / n
    return float((share + np.sqrt(share**2 - a * b)) / a)


def membership_auc(
    synthetic: Floats32, originals: Floats32, others: Floats32, *, most: int | None = None
) -> Auc:
    """Return how well similarity to the synthetic images tells who was trained on: 0.5 betrays nobody."""
    member, stranger = (nearest_similarity(_some(part, most), synthetic) for part in (originals, others))
    truth = np.r_[np.ones(len(member)), np.zeros(len(stranger))]
    return auc(truth, np.r_[member, stranger])


def _some(images: Floats32, most: int | None) -> Floats32:
    """Return all images, or so many of them, evenly spread.

    >>> images = np.zeros((30, 4, 4), np.float32)
    >>> len(_some(images, None)), len(_some(images, 40)), len(_some(images, 20))
    (30, 30, 20)
    """
    if most is None or len(images) <= most:
        return images
    chosen: Floats32 = images[np.linspace(0, len(images) - 1, most).round().astype(int)]
    return chosen


def nearest_similarity(these: Floats32, those: Floats32) -> Floats:
    """Return for each image its greatest aligned correlation with any of those, 0 to 1 (as a rule)."""
    small, bank = _reduced(these), _reduced(those)
    order = _likeliest(_descriptors(small), _descriptors(bank))
    spectra = [_templates(image, _COARSE) for image in bank]
    return np.array([_nearest(image, bank, spectra, near) for image, near in zip(small, order, strict=True)])


def _nearest(image: Floats, bank: Floats, spectra: list[Array], near: Array) -> float:
    """Return the best correlation over the likeliest originals, the best of which are aligned more finely."""
    coarse = {int(k): _aligned(image, spectra[k]) for k in near}
    best = sorted(coarse, key=lambda k: -float(coarse[k].max()))[:_REFINED]
    fine = []
    for k in best:
        mirror, turn, scale = _COARSE[int(coarse[k].argmax())]
        poses = tuple((mirror, turn + dt, scale + ds) for dt in _FINE_TURNS_DEG for ds in _FINE_SCALES)
        fine.append(float(_aligned(image, _templates(bank[k], poses)).max()))
    return max(fine)


def _reduced(images: Floats32) -> Floats:
    """Return images (n, SIDE, SIDE) averaged over pixels, without the shape that every slice shares."""
    stack = np.asarray(images, np.float64)
    zoom = SIDE / stack.shape[1]
    smooth = ndimage.gaussian_filter(stack, (0, *(0.4 / zoom,) * 2)) if zoom < 1 else stack
    factors = (1, zoom, SIDE / stack.shape[2])
    small = ndimage.zoom(smooth, factors, order=1, grid_mode=True, mode="nearest")
    return np.asarray(small - ndimage.gaussian_filter(small, (0, _COARSE_PX, _COARSE_PX)))


def _descriptors(images: Floats) -> Floats:
    """Return what shifts and turns leave alone: the sorted intensities and the power of each frequency."""
    flat = np.sort(images.reshape(len(images), -1), axis=1)[:, ::8]
    power = np.log(np.abs(np.fft.fft2(images - images.mean((1, 2), keepdims=True))) ** 2 + 1)
    rings = np.stack([power[:, _rings() == r].mean(1) for r in range(1, 9)], axis=1)
    joined = [(part - part.mean(0)) / (part.std() + 1e-9) / np.sqrt(part.shape[1]) for part in (flat, rings)]
    return np.concatenate(joined, axis=1)


@lru_cache(maxsize=1)
def _rings() -> Array:
    frequency = np.fft.fftfreq(SIDE) * SIDE
    return np.asarray(np.round(np.hypot(*np.meshgrid(frequency, frequency))).astype(int))


def _likeliest(these: Floats, those: Floats) -> Array:
    from scipy.spatial.distance import cdist

    return np.asarray(np.argsort(cdist(these, those), axis=1)[:, :_CANDIDATES])


def _templates(image: Floats, poses: tuple[_Pose, ...]) -> Array:
    """Return the conjugate spectra of an image in several poses, each of unit norm."""
    variants = [_turned(image[:, ::-1] if mirror else image, turn, scale) for mirror, turn, scale in poses]
    return np.asarray(np.conj(np.fft.rfft2(np.stack([_normalised(v) for v in variants]))))


def _turned(image: Floats, degrees: float, scale: float) -> Floats:
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    middle = np.full(2, (SIDE - 1) / 2)
    return np.asarray(
        ndimage.affine_transform(image, matrix, middle - matrix @ middle, order=1, mode="nearest")
    )


def _normalised(image: Floats) -> Floats:
    window = _window()
    centred = (image - (image * window).sum() / window.sum()) * window
    return np.asarray(centred / (np.linalg.norm(centred) + 1e-9))


@lru_cache(maxsize=1)
def _window() -> Floats:
    """Return weights that fade towards the edge, where a moved copy has lost what it shows."""
    side = np.clip(np.hanning(SIDE + 2)[1:-1] * 2.5, 0, 1)
    return np.asarray(np.outer(side, side))


def _aligned(image: Floats, templates: Array) -> Floats:
    """Return the greatest correlation with each template over all shifts allowed."""
    spectrum = np.fft.rfft2(_normalised(image))
    maps = np.fft.irfft2(spectrum[None] * templates, s=(SIDE, SIDE))
    reach = int(np.ceil(MOST_SHIFT * SIDE))
    near = np.r_[0 : reach + 1, -reach:0]
    return np.asarray(maps[:, near][:, :, near].max(axis=(1, 2)))
