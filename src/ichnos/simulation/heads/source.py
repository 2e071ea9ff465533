"""Source heads: one healthy adult each, as tissue codes with the maps that patients are varied by.

A head is cached; a patient is one deformation of it. Codes below `SULCUS` are `Tissue`; from there on they
are cortex or sulcal fluid, depending on the patient's atrophy: `SULCUS + k` (cerebrum) and `FOLIUM + k`
(cerebellum) become fluid when atrophy asks for level k.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import edt
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from ichnos.errors import InputRefused
from ichnos.simulation.patient import Tissue
from ichnos.volume import Floats

SULCUS, FOLIUM, LEVELS = 64, 96, 16
_CAVITY = tuple(range(Tissue.DURA, Tissue.CEREBELLAR_WHITE + 1))
FEATURE_STEP = 2  # voxels of the code grid per voxel of the feature grid

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class SourceHead:
    """A head to be varied, in its own upright millimetres (origin near the anterior commissure, x to the
    right).
    """

    name: str
    codes: torch.Tensor  # (x, y, z) uint8, 1 mm
    affine: Floats  # (4, 4) voxel index -> head mm
    # (2, x, y, z) float32 at 2 mm: signed distance to the ventricles, depth inside the skull (mm, < 0
    # outside)
    features: torch.Tensor
    feature_affine: Floats  # (4, 4)
    mni_mm: torch.Tensor  # (3, x, y, z) float32 on the feature grid: MNI152 position, mm

    @property
    def intracranial_ml(self) -> float:
        """Return the volume inside the skull."""
        voxel_ml = float(np.prod(np.diag(self.feature_affine)[:3])) / 1000
        return float(torch.count_nonzero(self.features[1] > 0)) * voxel_ml

    def to(self, device: torch.device) -> SourceHead:
        """Return the same head with its maps on another device."""
        if self.codes.device == device:
            return self
        return replace(
            self,
            codes=self.codes.to(device),
            features=self.features.to(device),
            mni_mm=self.mni_mm.to(device),
        )


def finished(
    name: str,
    codes: Codes,
    affine: Floats,
    mni_mm: npt.NDArray[np.float32],
    *,
    fluid: npt.NDArray[np.float32] | None = None,
) -> SourceHead:
    """Return a source head from plain tissue codes: grade the sulci, measure the distances. `mni_mm` is on
    `feature_affine_of`.
    """
    check_codes(name, codes)
    return SourceHead(
        name=name,
        codes=torch.from_numpy(graded(codes, fluid)),
        affine=affine,
        features=torch.from_numpy(_features(codes)),
        feature_affine=feature_affine_of(affine),
        mni_mm=torch.from_numpy(mni_mm),
    )


def check_codes(name: str, codes: Codes) -> None:
    """Refuse a head that cannot be varied: no ventricles, or hardly any brain."""
    if int((codes == Tissue.VENTRICLE).sum()) < 2000:
        raise InputRefused(
            f"the head {name} has no ventricles (under 2 mL); a label map with ventricles is needed"
            " (FreeSurfer 4, 43)"
        )
    if int((codes == Tissue.WHITE).sum()) < 100_000:
        raise InputRefused(
            f"the head {name} has under 100 mL of cerebral white matter; a label map of a whole adult head is"
            " needed"
        )


def feature_affine_of(affine: Floats) -> Floats:
    """Return the affine of the feature grid: every second voxel of the code grid."""
    return affine @ np.diag([FEATURE_STEP, FEATURE_STEP, FEATURE_STEP, 1.0])


def graded(codes: Codes, share: npt.NDArray[np.float32] | None = None) -> Codes:
    """Return codes in which cortex and the fluid beside it carry the atrophy at which they turn to fluid.

    The more of the neighbourhood is fluid, or the greater the voxel's own known `share`, the sooner.
    """
    out = codes.copy()
    fluid = ndimage.uniform_filter((codes == Tissue.CSF).astype(np.float32), 3)
    if share is not None:
        fluid = np.maximum(fluid, share)
    for tissue, first in ((Tissue.CORTEX, SULCUS), (Tissue.CEREBELLAR_CORTEX, FOLIUM)):
        cortex = codes == tissue
        near = edt.edt(~cortex, parallel=1) <= 1.5
        both = cortex | (near & (codes == Tissue.CSF))
        level = np.clip(np.round((fluid - 0.1) / 0.75 * (LEVELS - 1)), 0, LEVELS - 1).astype(np.uint8)
        out[both] = first + level[both]
    return out


def lookup(atrophy: float, device: torch.device) -> torch.Tensor:
    """Return the table from codes to `Tissue` for an atrophy of 0..1: the more atrophy, the more of the
    graded cortex is fluid.

    >>> table = lookup(0.0, torch.device("cpu"))
    >>> Tissue(int(table[SULCUS])).name, Tissue(int(table[SULCUS + LEVELS - 1])).name
    ('CORTEX', 'CSF')
    """
    table = np.arange(256, dtype=np.uint8)
    first_fluid = round((0.80 - 0.55 * atrophy) * (LEVELS - 1))
    for tissue, first in ((Tissue.CORTEX, SULCUS), (Tissue.CEREBELLAR_CORTEX, FOLIUM)):
        table[first : first + LEVELS] = np.where(np.arange(LEVELS) >= first_fluid, Tissue.CSF, tissue)
    return torch.from_numpy(table).to(device)


def _features(codes: Codes) -> npt.NDArray[np.float32]:
    coarse = codes[::FEATURE_STEP, ::FEATURE_STEP, ::FEATURE_STEP]
    ventricle = np.isin(coarse, (Tissue.VENTRICLE, Tissue.CHOROID))
    cavity = ndimage.binary_closing(np.isin(coarse, _CAVITY), iterations=2)
    return np.stack([_signed(~ventricle), _signed(cavity)]).astype(np.float32)


def _signed(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return mm to the edge of a mask on the feature grid, positive inside, smoothed."""
    inside = edt.edt(np.ascontiguousarray(mask), parallel=1)
    outside = edt.edt(np.ascontiguousarray(~mask), parallel=1)
    distance = (inside - outside - np.sign(inside - outside) * 0.5) * FEATURE_STEP
    smooth: npt.NDArray[np.float32] = ndimage.gaussian_filter(distance.astype(np.float32), 0.7)
    return smooth
