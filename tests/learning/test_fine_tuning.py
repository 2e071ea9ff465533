"""Fine-tuning: trunk and known targets come from the parent, its refinement is kept or its loss is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from builders.trainable_cohort import head, write_trainable_cohort
from ichnos.errors import InputRefused, UsageError
from ichnos.inference import Predictor
from ichnos.learning.loop.resources import Resources
from ichnos.learning.segmentation.fine_tuning import network_for_targets, starting_from, weights_from
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.learning.segmentation.training import segmentation_network, train_on_cohort
from ichnos.models import Model, load_model, save_model
from ichnos.models.store import REFINEMENT
from ichnos.scan import Scan

PLAN = TrainSettings(targets=target_specs("ICH,tract")).changed(
    spacing_mm=(4.0, 4.0, 4.0),
    patch=(16, 16, 16),
    windows_hu=((0.0, 80.0),),
    width=4,
    batch=2,
    steps=4,
    validations=2,
    learning_rate=1e-2,
)


def test_a_training_begins_where_another_network_ended(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", without_tract=())
    first = train_on_cohort(
        cohort, tmp_path / "first", PLAN.changed(steps=60, validations=1), work=tmp_path / "one"
    )
    plan = starting_from(
        TrainSettings(targets=target_specs("tract,ICH")).changed(batch=2, steps=1, validations=1),
        str(tmp_path / "first"),
    )
    assert plan.preprocessing == PLAN.preprocessing
    second = train_on_cohort(
        cohort, tmp_path / "second", plan.changed(learning_rate=1e-9), work=tmp_path / "two"
    )
    assert second.manifest.provenance.parents == (first.manifest.weights_sha256,)
    scan = Scan(head(4)[0].reoriented("LPS"))
    before, after = (Predictor(load_model(m.folder), backend="torch")(scan) for m in (first, second))
    for name in ("ICH", "tract_left", "tract_right"):
        assert np.abs(before.probability(name).array - after.probability(name).array).max() < 1e-3, (
            f"{name} is asked in another place now"
        )
    new = starting_from(TrainSettings(targets=target_specs("ventricles,ICH")), str(tmp_path / "first"))
    spec = network_for_targets(first, new.targets, deep_supervision=False)
    weights = weights_from(first, spec, new.targets, seed=3)
    old = first.network().state_dict()
    answer = [name for name in old if weights[name].shape != old[name].shape]
    assert answer
    assert all(torch.equal(weights[name][1], old[name][0]) for name in answer), (
        "ICH is the second of the new targets, the first of the old"
    )
    assert not any(torch.equal(weights[name][0], old[name][0]) for name in answer if old[name].dim() > 1), (
        "ventricles are new"
    )
    other = starting_from(
        TrainSettings(targets=target_specs("tract,ICH")).changed(batch=2, steps=1, validations=1),
        str(tmp_path / "second"),
    )
    with pytest.raises(UsageError, match="other settings or other data"):
        train_on_cohort(cohort, tmp_path / "third", other.changed(learning_rate=1e-9), work=tmp_path / "two")


def test_a_network_of_slices_or_an_imported_one_is_nothing_to_begin_from(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", without_tract=())
    flat = PLAN.changed(
        targets=target_specs("ICH"),
        spacing_mm=(4.0, 4.0, 5.0),
        patch=(16, 16, 1),
        steps=1,
        validations=1,
    )
    train_on_cohort(cohort, tmp_path / "flat", flat, work=tmp_path / "work")
    with pytest.raises(InputRefused, match="this one was imported or sees slices"):
        starting_from(PLAN, str(tmp_path / "flat"))


def test_a_patch_that_leaves_one_voxel_is_refused_by_name() -> None:
    plan = starting_from(TrainSettings(targets=target_specs("ICH")), "default")
    assert segmentation_network(plan.changed(patch=(32, 16, 16))).name == "unet"
    with pytest.raises(UsageError, match="a patch of 16 x 16 x 16 voxels is too small"):
        segmentation_network(plan.changed(patch=(16, 16, 16)))


def test_a_refinement_is_kept_by_a_model_with_all_its_targets_and_missed_aloud_otherwise(
    tmp_path: Path,
) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", without_tract=())
    parent = train_on_cohort(cohort, tmp_path / "parent", PLAN, work=tmp_path / "one")
    refines = {"name": "refiner", "refines": parent.manifest.weights_sha256}
    manifest = parent.manifest.model_copy(update=refines)
    save_model(parent.folder / REFINEMENT, parent.network(), manifest)
    notes: list[str] = []
    resources = Resources(warn=notes.append)

    def tuned(targets: str) -> Model:
        settings = starting_from(TrainSettings(targets=target_specs(targets)), str(parent.folder))
        settings = settings.changed(batch=1, steps=1, validations=1, precision="fp32")
        work = tmp_path / f"{targets}.work"
        return train_on_cohort(cohort, tmp_path / targets, settings, work=work, resources=resources)

    kept, lost = tuned("ICH,tract"), tuned("ICH")
    refinement = kept.refinement()
    assert refinement is not None
    assert refinement.manifest.refines == kept.manifest.weights_sha256
    assert "fine-tuned" in refinement.manifest.limits[-1]
    assert lost.refinement() is None
    assert "was kept" in notes[0]
    assert "needs tract_left, tract_right too" in notes[1]
