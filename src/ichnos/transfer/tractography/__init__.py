"""Diffusion MRI to the corticospinal tract: gradient table, orientations, streamlines, density on the CT."""

from ichnos.transfer.tractography.gradients import GradientTable, fsl_gradients, gradients_beside
from ichnos.transfer.tractography.streamlines import (
    TRACT_CUT_OFF,
    Tract,
    density_on_ct,
    save_streamlines,
)
from ichnos.transfer.tractography.tracking import Tractography, brain_of_b0, track, track_fod

__all__ = [
    "TRACT_CUT_OFF",
    "GradientTable",
    "Tract",
    "Tractography",
    "brain_of_b0",
    "density_on_ct",
    "fsl_gradients",
    "gradients_beside",
    "save_streamlines",
    "track",
    "track_fod",
]
