"""The smallest run that goes through every step: for tests and for trying it out without a GPU."""

from __future__ import annotations

from dataclasses import replace

from ichnos.learning.virtual.accelerated.first_network import FirstPlan
from ichnos.learning.virtual.accelerated.second_network import SecondPlan
from ichnos.learning.virtual.accelerated.weights import Run


def toy_run(run: Run) -> Run:
    """Return a run with tiny networks, coarse patients and few of everything."""
    first = FirstPlan(
        features=(4, 8, 8),
        growth=((0.5, (24, 24, 24), 2), (1.01, (32, 40, 32), 2)),
        pairs_per_patient=1,
        capacity=8,
        least_looks=2,
        held_out_patients=1,
        calibration_patients=1,
        spacing_mm=3.0,
        next_spacing_mm=2.0,
        next_lead_s=1.0,
        channels_last=False,
    )
    second = SecondPlan(
        features=(4, 8),
        batch=2,
        patch=(32, 32, 8),
        scans_per_patient=1,
        capacity=8,
        least_scans=1,
        spacing_mm=2.0,
        held_out_patients=1,
        calibration_patients=1,
        channels_last=False,
    )
    return replace(run, workers=1, slots=6, first=first, second=second, save_every_s=5.0)
