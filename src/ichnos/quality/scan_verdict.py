"""May this scan be read? pass, warn or refuse, with reasons, each with its number.

The limits are those of a careful reader of head CT, not of a study; each stands beside its check.
"""

from __future__ import annotations

import numpy as np

from ichnos.quality.acquisition import acquisition_reasons
from ichnos.quality.continuity import continuity_reasons
from ichnos.quality.head import head_reasons
from ichnos.quality.hounsfield import hounsfield_reasons
from ichnos.quality.motion import motion_reason
from ichnos.quality.slices import slice_reasons
from ichnos.quality.view import head_view
from ichnos.scan import FEWEST_SLICES, Scan
from ichnos.verdict import Reason, Verdict


def judge(scan: Scan) -> Verdict:
    """Judge whether a scan may be read as a non-contrast head CT."""
    reasons = [*acquisition_reasons(scan), *slice_reasons(scan)]
    if (hopeless := _unusable(scan)) is not None:
        return Verdict((*reasons, hopeless))
    view = head_view(scan)
    return Verdict(
        (
            *reasons,
            *continuity_reasons(scan),
            *head_reasons(view),
            *hounsfield_reasons(view),
            motion_reason(view),
        )
    )


def _unusable(scan: Scan) -> Reason | None:
    """Return why no further look at the voxels makes sense; None where it does."""
    broken = int(np.count_nonzero(~np.isfinite(scan.hu))) if scan.hu.dtype.kind == "f" else 0
    if broken:
        return Reason("finite", "refuse", f"{broken} voxels are not finite (NaN or infinite)", float(broken))
    thin = min(scan.volume.shape)
    if thin < FEWEST_SLICES:
        text = f"the image is only {thin} voxels thick along one axis; at least {FEWEST_SLICES} are needed"
        return Reason("size", "refuse", text, float(thin))
    return None
