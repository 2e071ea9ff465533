"""Batches of virtual patients depend on the step's number and nothing else."""

from __future__ import annotations

import pytest
import torch

from ichnos.learning.defaults import TARGETS, default_settings
from ichnos.learning.simulated import Population, SimulatedBatches
from ichnos.simulation.training import Recipe


@pytest.mark.slow
def test_a_batch_is_a_function_of_its_step() -> None:
    how = default_settings(steps=10, side=32).preprocessing

    def batches() -> SimulatedBatches:
        recipe = Recipe(spacing_mm=2.0, side=32, crops_per_patient=2)
        return SimulatedBatches(Population(haematoma_share=1.0), recipe, tuple(t.name for t in TARGETS), how.windows_hu, size=1, ahead=1)

    first, second = batches(), batches()
    try:
        in_order = [first(step) for step in range(4)]
        jumped = second(3)
        assert torch.equal(in_order[3].image, jumped.image)
        assert torch.equal(in_order[3].truth, jumped.truth)
        assert not torch.equal(in_order[2].image, in_order[3].image)
        assert in_order[0].truth[0, 0].mean() > 0.05, "a crop near the brain's middle holds brain"
        assert set(in_order[0].truth.unique().tolist()) <= {0.0, 1.0}
    finally:
        first.close()
        second.close()
