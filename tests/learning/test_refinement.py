"""The refinement learns from a pool of scans: batches are pure functions of their number, a mirrored patch
has its sides exchanged.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ichnos import networks
from ichnos.errors import InputRefused, UsageError
from ichnos.learning.loop.resources import Resources
from ichnos.learning.segmentation.losses import multi_target_loss
from ichnos.learning.virtual.default_model import default_settings
from ichnos.learning.virtual.refinement import HOW, NAMES, PoolBatches, looks, train_refinement
from ichnos.models import Manifest, Model, Provenance, default_model, load_model, save_model
from ichnos.models.store import REFINEMENT
from ichnos.runs import Numbered

SHAPE = (88, 100, 18)


def made_pool(folder: Path, scans: int) -> Path:
    """Write scans in which the first network draws everything a voxel too wide, and each tract where it
    is.
    """
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(scans):
        truth = np.zeros((len(NAMES), *SHAPE), np.uint8)
        logits = np.full(truth.shape, -100, np.int8)
        low, high = rng.integers(4, 12, 3), np.array(SHAPE) - rng.integers(2, 6, 3)
        truth[0, low[0] : high[0], low[1] : high[1], low[2] - 3 : high[2]] = 255
        for channel, x in (("ICH", 30), ("tract_left", 20), ("tract_right", 60)):
            truth[NAMES.index(channel), x : x + 8, 40:60, 6:12] = 255
            logits[NAMES.index(channel), x - 1 : x + 9, 39:61, 6:12] = 20
        logits[0] = np.where(truth[0] > 0, 60, -60)
        hu = np.where(truth[0] > 0, 34, -1000) + 30 * (truth[NAMES.index("ICH")] > 0)
        shares = np.stack([truth[NAMES.index(f"tract_{side}")] for side in ("left", "right")])
        np.savez(
            folder / f"{number // 2:04d}_{number % 2}.npz",
            hu=hu.astype(np.int16),
            lg=logits,
            sh=shares,
            truth=truth,
        )
    return folder


def first_model(folder: Path) -> Model:
    settings = default_settings(steps=1)
    manifest = Manifest(
        name="first",
        version="1",
        limits=("Random weights.",),
        network=settings.network,
        preprocessing=settings.preprocessing,
        targets=settings.targets,
        provenance=Provenance(
            code_version="0",
            command="none",
            seeds=(0,),
            steps=0,
            data={},
            hardware="none",
            trained="2026-01-01",
        ),
    )
    return save_model(folder, networks.build(settings.network.name, **settings.network.arguments), manifest)


def test_batches_are_pure_and_a_mirrored_patch_keeps_left_left(tmp_path: Path) -> None:
    files = tuple(sorted(made_pool(tmp_path / "pool", 4).glob("*.npz")))
    a, b = PoolBatches(files), PoolBatches(files)
    for step in (7, 3):
        assert torch.equal(a(step).image, b(step).image)
        assert torch.equal(a(step).truth, b(step).truth)
    assert not torch.equal(a(0).image, a(1).image)
    sides = set()
    for step in range(12):
        batch = a(step)
        assert batch.image.shape == (1, len(HOW.windows_hu) + len(NAMES) + 2, *HOW.patch)
        left, right = (batch.truth[0, NAMES.index(f"tract_{side}")] > 0.5 for side in ("left", "right"))
        atlas_left, atlas_right = batch.image[0, -2] > 0, batch.image[0, -1] > 0
        assert torch.equal(left, atlas_left)
        assert torch.equal(right, atlas_right)
        at = [float(torch.nonzero(side)[:, 0].float().mean()) for side in (left, right)]
        sides.add(at[0] < at[1])
    assert sides == {True}  # RAS: x grows to the right, in a mirrored patch too


def test_a_refinement_is_learnt_goes_on_and_lies_beside_the_weights(tmp_path: Path) -> None:
    model, pool = first_model(tmp_path / "m"), made_pool(tmp_path / "pool", 8)
    scans = tuple(sorted(pool.glob("*.npz")))
    made = train_refinement(
        model, scans, heads=(), work=tmp_path / "work", steps=6, resources=Resources(command="test")
    )
    batch = PoolBatches(scans)(3)
    # learnt nothing: the first network's own words
    before = networks.build(made.manifest.network.name, **made.manifest.network.arguments)
    with torch.inference_mode():
        loss = [
            float(multi_target_loss(network(batch.image), batch.truth, batch.known))
            for network in (before, made.network())
        ]
    assert loss[1] < 0.99 * loss[0]
    assert made.folder == model.folder / REFINEMENT
    found = load_model(model.folder).refinement()
    assert found is not None
    assert found.manifest.refines == model.manifest.weights_sha256
    assert found.manifest.provenance.steps == 6
    called_again = train_refinement(model, scans, heads=(), work=tmp_path / "work", steps=6)
    assert called_again.manifest.provenance.steps == 6
    assert called_again.manifest.provenance.parents == ()
    again = train_refinement(model, scans, heads=(), work=tmp_path / "other", steps=1)
    assert again.manifest.provenance.steps == 7
    assert again.manifest.provenance.parents == (found.manifest.weights_sha256,)
    with pytest.raises(UsageError, match="began from earlier weights; give another --work"):
        train_refinement(model, scans, heads=(), work=tmp_path / "other", steps=1, anew=True)


def test_a_pool_of_few_scans_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="too few"):
        train_refinement(
            first_model(tmp_path / "m"),
            tuple(made_pool(tmp_path / "pool", 4).glob("*.npz")),
            heads=(),
            work=tmp_path / "work",
            steps=1,
        )


@pytest.mark.slow
def test_a_pool_holds_what_the_model_said_of_scans_whose_truth_is_known(tmp_path: Path) -> None:
    row = looks(Numbered(1), tmp_path, model=default_model().folder, heads=(), cache=None)
    assert row["head"]
    files = sorted(tmp_path.glob("*.npz"))
    assert [file.name for file in files] == ["0001_0.npz", "0001_1.npz"]
    with np.load(files[0]) as held:
        brain, said = held["truth"][0] > 127, held["lg"][0] > 0
        assert 2 * (brain & said).sum() / (brain.sum() + said.sum()) > 0.85
        assert held["sh"][:, brain].max() > 200
