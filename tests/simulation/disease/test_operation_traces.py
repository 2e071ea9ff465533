"""What an operation leaves: where it lies, and what it does not touch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ichnos.simulation.disease.operation import (
    DRAIN_CALCIUM,
    Operation,
    drawn_operation,
    operated,
    operation_words,
)
from ichnos.simulation.fields import Grid
from ichnos.simulation.patient import Tissue

NOTHING = Operation(side=1.0, drain=False, flap_mm=0.0, flap_missing=False, hygroma_mm=0.0)


@pytest.fixture(scope="module")
def head() -> tuple[Grid, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A ball of white matter under cortex, fluid, bone and scalp, in MNI millimetres."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-88, -88, -88)
    grid = Grid(affine, (23, 23, 23), 2.0)
    mni = grid.coarse_points(torch.device("cpu"))
    radius = grid.enlarged(mni).norm(dim=0)
    tissue = torch.zeros(grid.shape, dtype=torch.uint8)
    layers = (
        (82, Tissue.SCALP),
        (78, Tissue.BONE),
        (70, Tissue.CSF),
        (68, Tissue.CORTEX),
        (58, Tissue.WHITE),
    )
    for size, code in layers:
        tissue[radius <= size] = int(code)
    return grid, mni, 70.0 - mni.norm(dim=0), tissue


def after(operation: Operation, head) -> tuple[torch.Tensor, torch.Tensor]:
    grid, mni, depth, tissue = head
    return operated(operation, tissue, mni, depth, grid)


def changed(operation: Operation, head) -> torch.Tensor:
    grid, _, _, tissue = head
    place = (after(operation, head)[0] != tissue).nonzero().float() * grid.spacing_mm
    return place + torch.tensor(grid.affine[:3, 3], dtype=torch.float32)


def test_no_trace_changes_nothing_and_the_head_itself_is_not_written_to(head) -> None:
    before = head[3].clone()
    tissue, dense = after(NOTHING, head)
    assert torch.equal(tissue, before)
    assert float(dense.sum()) == 0
    after(Operation(1.0, True, 30.0, True, 8.0), head)
    assert torch.equal(head[3], before)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_missing_flap_takes_bone_on_its_side_alone(head, side: float) -> None:
    where = changed(Operation(side, False, 30.0, True, 0.0), head)
    assert len(where) > 300
    assert bool((side * where[:, 0] > 0).all())
    tissue = after(Operation(side, False, 30.0, True, 0.0), head)[0]
    altered = tissue != head[3]
    assert set(head[3][altered].tolist()) == {int(Tissue.BONE)}
    assert set(tissue[altered].tolist()) == {int(Tissue.MUSCLE)}


def test_a_flap_that_was_put_back_leaves_only_its_cut(head) -> None:
    whole, cut = (len(changed(Operation(1.0, False, 30.0, gone, 0.0), head)) for gone in (True, False))
    assert 0 < cut < 0.5 * whole


def test_a_hygroma_is_fluid_over_the_front_of_one_side(head) -> None:
    where = changed(Operation(1.0, False, 0.0, False, 10.0), head)
    assert len(where) > 100
    assert float(where[:, 0].mean()) > 10
    assert float(where[:, 1].mean()) > 0
    tissue = after(Operation(1.0, False, 0.0, False, 10.0), head)[0]
    assert set(tissue[tissue != head[3]].tolist()) == {int(Tissue.CSF)}
    thin = changed(Operation(1.0, False, 0.0, False, 6.0), head)
    assert len(thin) < len(where)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_drain_runs_from_the_skull_to_the_middle(head, side: float) -> None:
    grid = head[0]
    _, dense = after(Operation(side, True, 0.0, False, 0.0), head)
    assert float(dense.max()) == pytest.approx(DRAIN_CALCIUM, abs=0.02)
    tube = (dense > 0.3).nonzero().float() * 2.0 + torch.tensor(grid.affine[:3, 3], dtype=torch.float32)
    assert float(tube[:, 2].max() - tube[:, 2].min()) > 50
    assert bool((side * tube[:, 0] > 0).all())
    volume_ml = float(dense.sum()) / DRAIN_CALCIUM * 0.008
    assert 0.2 < volume_ml < 1.5


def test_operations_are_as_frequent_as_asked_for_and_of_every_kind() -> None:
    drawn = [drawn_operation(0.3, torch.Generator().manual_seed(seed)) for seed in range(400)]
    done = [one for one in drawn if one is not None]
    assert len(done) == pytest.approx(120, abs=35)
    words = {word for one in done for word in operation_words(one).split()}
    assert words == {"drain", "craniotomy", "craniectomy", "hygroma"}
    assert all(operation_words(one) for one in done)
    assert all(drawn_operation(0.0, torch.Generator().manual_seed(seed)) is None for seed in range(20))
    assert operation_words(None) == ""
