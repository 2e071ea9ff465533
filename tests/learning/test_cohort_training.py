"""From a cohort on disk to a Model that reads a scan; and every way in which a cohort cannot be learnt
from, by name.
"""

from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders.simulated import as_simulated
from builders.trainable_cohort import head, write_trainable_cohort
from ichnos.cohort import SIMULATED_ONLY, Cohort
from ichnos.errors import IchnosError, InputRefused, UsageError
from ichnos.evidence.metrics.overlap import overlap
from ichnos.formats import bids
from ichnos.inference import Predictor, input_channels
from ichnos.learning.loop.resources import Resources
from ichnos.learning.segmentation.augmentation import network_input
from ichnos.learning.segmentation.batches import CohortBatches, simulated_batches
from ichnos.learning.segmentation.budget import settings_within
from ichnos.learning.segmentation.cases import CaseGrid, TrainingCase, prepare_cases
from ichnos.learning.segmentation.objective import Batch
from ichnos.learning.segmentation.settings import OFF, Augmentation, TrainSettings
from ichnos.learning.segmentation.target_files import target_file, target_specs
from ichnos.learning.segmentation.training import train_on_cohort
from ichnos.learning.segmentation.validation import Validator, history
from ichnos.models import Preprocessing, load_model
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


def test_a_network_learns_from_a_cohort_and_reads_a_scan_it_never_saw(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", without_tract=(0,))
    steps: list[int] = []
    resources = Resources(report=lambda progress: steps.append(progress.step))
    model = train_on_cohort(
        cohort,
        tmp_path / "model",
        PLAN.changed(steps=100, validations=2),
        work=tmp_path / "work",
        resources=resources,
    )
    assert steps == list(range(1, 101))
    validation = model.manifest.provenance.validation
    assert validation["dice_ICH"] > 0.6
    assert 0.6 < validation["dice_ICH_on_scans_if_perfect"] <= 1
    ct, blood, tract = head(4)  # the patient of the split test
    prediction = Predictor(load_model(tmp_path / "model"), backend="torch")(Scan(ct.reoriented("LPS")))
    assert overlap(blood.reoriented("LPS"), prediction.mask("ICH")).dice > 0.6
    either = sum(
        prediction.probability(f"tract_{side}").reoriented("RAS").array for side in ("left", "right")
    )
    assert either[tract.array > 0].mean() > either[tract.array == 0].mean() + 0.2
    found = history(tmp_path / "work")
    assert [row.step for row in found] == [50, 100]
    assert found[-1].patients == 1
    assert (tmp_path / "work" / "worst" / "step-000100.png").read_bytes().startswith(b"\x89PNG")
    listed = list(
        csv.DictReader((tmp_path / "work" / "training.csv").read_text(encoding="utf-8").splitlines())
    )
    assert [(row["patient"], row["split"]) for row in listed] == [
        ("00", "train"),
        ("01", "train"),
        ("02", "train"),
        ("03", "validation"),
    ]


def test_a_mirror_exchanges_the_sides(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train",), without_tract=())
    names = tuple(t.name for t in target_specs("ICH,tract"))
    cases = prepare_cases(cohort, CaseGrid(names, (4.0, 4.0, 4.0)), tmp_path / "cases")
    how = Preprocessing(spacing_mm=(4, 4, 4), windows_hu=((0, 80),), patch=(16, 16, 16))
    seen = CohortBatches(cases, names, how, size=3, augmentation=OFF)(5)
    mirrored = CohortBatches(cases, names, how, size=3, augmentation=replace(OFF, mirrored_share=1.0))(5)
    assert torch.equal(mirrored.image, seen.image.flip(2))
    assert torch.equal(mirrored.truth, seen.truth[:, [0, 2, 1]].flip(2))
    assert seen.truth[:, 1].any()
    assert seen.truth[:, 2].any()
    alone = prepare_cases(cohort, CaseGrid(("tract_left",), (4.0, 4.0, 4.0)), tmp_path / "cases")
    with pytest.raises(UsageError, match="tract_left is trained without tract_right"):
        CohortBatches(alone, ("tract_left",), how, augmentation=replace(OFF, mirrored_share=1.0))(0)


def test_augmentation_keeps_image_and_truth_together_and_depends_on_the_number_alone(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train",))
    cases = prepare_cases(cohort, CaseGrid(("ICH",), (4.0, 4.0, 4.0)), tmp_path / "cases")
    how = Preprocessing(spacing_mm=(4, 4, 4), windows_hu=((0, 80),), patch=(16, 16, 16))
    turned = CohortBatches(
        cases, ("ICH",), how, size=4, augmentation=replace(OFF, turned_share=1.0, turn_deg=30.0, zoom=0.2)
    )
    batch, again = turned(3), turned(3)
    assert torch.equal(batch.image, again.image)
    assert not torch.equal(batch.image, turned(4).image)
    clot, rest = batch.truth[:, :1] > 0.9, batch.truth[:, :1] == 0
    assert batch.image[clot].mean() > 0.4, "where the turned truth says clot, the turned image is bright"
    assert batch.image[rest & (batch.image > -0.9)].mean() < 0.2
    rough = CohortBatches(
        cases,
        ("ICH",),
        how,
        size=4,
        augmentation=replace(Augmentation(), turned_share=0.0, mirrored_share=0.0),
    )(3)
    still = CohortBatches(cases, ("ICH",), how, size=4, augmentation=OFF)
    assert set(rough.truth.unique().tolist()) <= {0.0, 1.0}
    assert rough.image.shape == still(3).image.shape


def test_what_the_network_sees_in_training_is_what_it_sees_in_reading() -> None:
    hu = torch.linspace(-1200, 3000, 60).reshape(1, 3, 4, 5)
    for how in (
        Preprocessing(spacing_mm=(1, 1, 1), windows_hu=((0, 80), (-1000, 1000)), patch=(4, 4, 4)),
        Preprocessing(
            spacing_mm=(1, 1, 1), windows_hu=((-10, 90),), patch=(4, 4, 4), z_score=((40.0, 20.0),)
        ),
    ):
        assert network_input(hu, how)[0].numpy() == pytest.approx(
            input_channels(hu[0].numpy(), how), abs=1e-6
        )


def test_a_killed_training_goes_on_to_the_same_model(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train", "train", "validation"))

    class Killed(Exception):
        pass

    def kill(progress: Any) -> None:
        if progress.step == 3:
            raise Killed

    with as_simulated(cohort):
        whole = train_on_cohort(cohort, tmp_path / "whole", PLAN, work=tmp_path / "a")
    assert SIMULATED_ONLY in whole.manifest.limits
    with pytest.raises(Killed):
        train_on_cohort(
            cohort, tmp_path / "cut", PLAN, work=tmp_path / "b", resources=Resources(report=kill, workers=2)
        )
    assert not (tmp_path / "cut").exists()
    assert torch.load(tmp_path / "b" / "checkpoint.pt", weights_only=True)["step"] == 2
    resumed = train_on_cohort(
        cohort, tmp_path / "cut", PLAN, work=tmp_path / "b", resources=Resources(workers=2)
    )
    assert resumed.manifest.weights_sha256 == whole.manifest.weights_sha256
    assert SIMULATED_ONLY not in resumed.manifest.limits


def test_another_cohort_does_not_go_on_with_a_training(tmp_path: Path) -> None:
    train_on_cohort(
        write_trainable_cohort(tmp_path / "one", ("train", "validation")),
        tmp_path / "m",
        PLAN,
        work=tmp_path / "w",
    )
    other = write_trainable_cohort(tmp_path / "two", ("train", "train", "validation"))
    with pytest.raises(UsageError, match="other settings or other data"):
        train_on_cohort(other, tmp_path / "m", PLAN, work=tmp_path / "w")


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        (("train", "train"), "there is no validation patient among 2"),
        (("validation", "test"), "none of 1 patients with a target is in the split 'train'"),
        ((), "none of 0 patients"),
    ],
)
def test_without_patients_on_both_sides_nothing_is_learnt(splits: Any, says: str, tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", splits) if splits else Cohort(())
    with pytest.raises(InputRefused, match=says):
        train_on_cohort(cohort, tmp_path / "m", PLAN, work=tmp_path / "w")


def test_a_target_that_nobody_has_is_named(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train", "validation"))
    with pytest.raises(InputRefused, match="no patient of the split 'train' has the target leukoaraiosis"):
        train_on_cohort(
            cohort,
            tmp_path / "m",
            PLAN.changed(targets=target_specs("ICH,leukoaraiosis")),
            work=tmp_path / "w",
        )


def test_the_same_scan_in_two_splits_is_leakage(tmp_path: Path) -> None:
    root = tmp_path / "cohort"
    write_trainable_cohort(root, ("train", "validation", "test"))
    ct = head(0)[0]
    bids.write_exam(root, "02", "ct", ct)
    with pytest.raises(InputRefused, match=r"sub-00 \(train\) and sub-02 \(test\) have the same CT file"):
        train_on_cohort(bids.read_cohort(root), tmp_path / "m", PLAN, work=tmp_path / "w")
    bids.write_exam(root, "02", "ct", head(2)[0])
    bids.write_exam(
        root, "01", "ct", ct.with_array(ct.array.astype(np.int32).astype(np.int16)), sidecar={"KVP": 100}
    )
    path = bids.exam_path(root, "01", "ct")
    path.write_bytes(path.read_bytes() + b"")  # the file may differ while its voxels do not
    with pytest.raises(InputRefused, match=r"leakage: sub-00 \(train\) and sub-01 \(validation\)"):
        train_on_cohort(bids.read_cohort(root), tmp_path / "m", PLAN, work=tmp_path / "w")


def test_one_person_under_two_names_is_leakage(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train", "validation"))
    named = replace(cohort, patients=tuple(replace(p, facts={"person": "the same"}) for p in cohort))
    with pytest.raises(InputRefused, match="one person by the column person"):
        train_on_cohort(named, tmp_path / "m", PLAN, work=tmp_path / "w")


def test_a_full_disk_is_named_and_the_last_checkpoint_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train", "validation"))
    save, calls = torch.save, []

    def full(content: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) > 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(content, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(IchnosError, match=r"No space left on device.*the last good one is kept"):
        train_on_cohort(cohort, tmp_path / "m", PLAN, work=tmp_path / "w")
    monkeypatch.undo()
    assert torch.load(tmp_path / "w" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert not list((tmp_path / "w").glob("*.partial"))
    assert train_on_cohort(cohort, tmp_path / "m", PLAN, work=tmp_path / "w").manifest.provenance.steps in (
        2,
        4,
    )


def test_it_stops_when_validation_gets_no_better(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train", "validation"))
    plan = PLAN.changed(steps=12, validations=12, patience=2, learning_rate=1e-12)
    train_on_cohort(cohort, tmp_path / "m", plan, work=tmp_path / "w")
    assert [row.step for row in history(tmp_path / "w")] == [1, 2, 3]


def test_prepared_patients_are_kept_and_prepared_anew_when_a_mask_changes(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train", "validation"))
    grid = CaseGrid(("ICH",), (4.0, 4.0, 4.0))
    first = prepare_cases(cohort, grid, tmp_path / "cases")
    stamp = (first[0].folder / "hu.npy").stat().st_mtime_ns
    assert (
        prepare_cases(cohort, grid, tmp_path / "cases")[0].folder.joinpath("hu.npy").stat().st_mtime_ns
        == stamp
    )
    _, blood, _ = head(1)
    bids.write_derivative(tmp_path / "cohort", "00", blood, pipeline="manual", label="haematoma", kind="dseg")
    assert prepare_cases(cohort, grid, tmp_path / "cases")[0].folder != first[0].folder


def test_a_target_is_taken_from_the_pipelines_that_were_asked_for(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train", "validation"))
    patient = cohort.patients[0]
    clot = head(0)[1]
    truth = bids.write_derivative(
        tmp_path / "cohort", patient.id, clot, pipeline="truth", label="haematoma", kind="dseg"
    )
    alone = bids.write_derivative(
        tmp_path / "cohort", patient.id, clot, pipeline="manual", label="ICH", kind="mask"
    )
    assert target_file(cohort, patient, "ICH", ("truth",)) == (truth, (1,))
    assert target_file(cohort, patient, "ICH", ("manual", "truth")) == (alone, ())
    assert target_file(cohort, patient, "leukoaraiosis", ("manual", "truth")) is None
    elsewhere = replace(cohort, root=None)
    assert target_file(elsewhere, patient, "IVH", ("truth",)) == (patient.targets["haematoma"], (2,))


def test_slices_and_every_network(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train", "validation"))
    plan = PLAN.changed(steps=1, validations=1, targets=target_specs("ICH"))
    for network, patch in (
        ("unet", (16, 16, 1)),
        ("umamba_bot", (16, 16, 16)),
        ("umamba_enc", (16, 16, 1)),
        ("unetr", (16, 16, 16)),
    ):
        name = f"{network}{patch[2]}"
        plan = plan.changed(
            network=network, patch=patch, precision="bf16", cl_dice_weight=0.5, rim_weight=0.5
        )
        model = train_on_cohort(cohort, tmp_path / name, plan, work=tmp_path / f"{name}.work")
        prediction = Predictor(model, backend="torch")(Scan(head(1)[0]))
        assert prediction.mask("ICH").shape == head(1)[0].shape


def test_validations_that_take_too_long_look_at_fewer_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train", *["validation"] * 7))
    looked: list[str] = []
    logits = Validator.logits

    def slowly(self: Validator, network: torch.nn.Module, case: TrainingCase) -> Any:
        looked.append(case.id)
        time.sleep(0.6)
        return logits(self, network, case)

    monkeypatch.setattr(Validator, "logits", slowly)
    plan = settings_within(cohort, PLAN, work=tmp_path / "w", resources=Resources(), seconds=12.0)
    assert len(looked) == 1, "one patient tells how long they take"
    assert 1 <= plan.validate_on <= 2, (
        "two rounds in a quarter of twelve seconds, with 0.6 s and more for each"
    )
    assert plan.loop.validations * plan.validate_on <= 4, "and no more rounds than that"
    model = train_on_cohort(cohort, tmp_path / "m", plan.changed(steps=2), work=tmp_path / "w")
    assert f"checked on {plan.validate_on} others" in model.manifest.limits[0]
    patient = settings_within(cohort, PLAN, work=tmp_path / "v", resources=Resources(), seconds=600.0)
    assert (patient.validate_on, patient.loop.validations) == (0, PLAN.loop.validations)


def test_simulated_batches_bring_the_targets_in_their_order(tmp_path: Path) -> None:
    plan = PLAN.changed(targets=target_specs("tract,ICH"), simulated_share=0.5)
    source = simulated_batches(plan, Resources(cache=tmp_path))
    assert [t.name for t in source.batch_at.targets] == ["brain", "tract_left", "tract_right", "ICH"]
    truth = torch.arange(4.0).reshape(1, 4, 1, 1, 1)
    chosen = replace(
        source, batch_at=lambda number: Batch(torch.zeros(1, 1, 1, 1, 1), truth + number, torch.ones(1, 4))
    )(10)
    assert chosen.truth.flatten().tolist() == [11.0, 12.0, 13.0]
    for refused in (plan.changed(patch=(16, 16, 1)), plan.changed(spacing_mm=(1.0, 1.0, 5.0))):
        with pytest.raises(UsageError, match="one voxel size of 2 to 6 mm"):
            simulated_batches(refused, Resources())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_simulated_patients_are_mixed_in(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train", "validation"))
    plan = PLAN.changed(steps=4, validations=1, simulated_share=0.5, batch=1)
    model = train_on_cohort(cohort, tmp_path / "m", plan, work=tmp_path / "w")
    assert "50% of batches from simulated patients" in model.manifest.limits[0]
