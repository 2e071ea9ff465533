"""Fine-tuning on pairs: what they show is learnt, the rest is held, test patients teach nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders.audited import box, grid, measure, store_reading
from builders.tiny_model import tiny_model
from builders.trainable_cohort import PIPELINE, write_trainable_cohort
from ichnos.audit import tuning
from ichnos.audit.adaptation import Adapted, identity_of, taught_by
from ichnos.audit.tuning import HeldLoss, TuningSettings, held_loss, learnable_cohort, tuned_on_pairs
from ichnos.cli.main import run
from ichnos.cohort import Cohort, Split
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.steps import Step
from ichnos.learning.segmentation.objective import Batch
from ichnos.models import Model, TargetSpec, load_model
from ichnos.transfer.makers import TransferOptions

SPLITS: list[Split] = ["train"] * 15 + ["validation"] * 5 + ["test"] * 2
HOW = TuningSettings(targets="ICH", steps=3, learning_rate=1e-2)
DRAWN = Resources(pipelines=(PIPELINE,))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_model(tmp_path_factory.mktemp("shipped") / "tiny")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_trainable_cohort(tmp_path_factory.mktemp("pairs"), SPLITS)


@pytest.fixture(scope="module")
def made(model: Model, pairs: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    folder = tmp_path_factory.mktemp("site")
    return tuned_on_pairs(model, pairs, folder / "new", HOW, work=folder / "work", resources=DRAWN)


def test_every_target_stays_and_only_those_that_were_taught_change_their_threshold(
    model: Model, made: Adapted
) -> None:
    new = load_model(made.folder)
    assert [t.name for t in new.manifest.targets] == [t.name for t in model.manifest.targets]
    changed = [t.name for t, o in zip(new.manifest.targets, model.manifest.targets, strict=True) if t != o]
    assert set(changed) <= {"ICH"}
    assert new.manifest.weights_sha256 != model.manifest.weights_sha256
    assert model.manifest.weights_sha256 in new.manifest.provenance.parents
    assert made.identity == identity_of(new)
    assert "Fine-tuned on 20 pairs of a site for ICH" in (made.folder / "CARD.md").read_text()


def test_validation_pairs_say_what_came_of_it(made: Adapted) -> None:
    validation = load_model(made.folder).manifest.provenance.validation
    assert set(validation) == {"dice_ICH"}
    assert "mean Dice on 5 validation pairs: ICH 0." in made.said
    assert f"{validation['dice_ICH']:.3f} after" in made.said
    assert "dice_ICH" in (made.folder / "CARD.md").read_text()


def test_test_patients_teach_nothing(made: Adapted) -> None:
    assert taught_by(made.folder) == {f"{k:02d}" for k in range(20)} == set(made.taught)


def test_the_same_call_resumes_to_weights_that_lie_as_far_from_the_parent_as_their_share(
    model: Model, pairs: Cohort, made: Adapted, tmp_path: Path
) -> None:
    def distance(folder: Path) -> float:
        mine, other = model.network().state_dict(), load_model(folder).network().state_dict()
        return float(sum((mine[name] - other[name]).square().sum() for name in mine)) ** 0.5

    work = made.folder.parent / "work"  # the training has ended there
    quarter = replace(HOW, share=HOW.share / 2)
    again = tuned_on_pairs(model, pairs, tmp_path / "again", quarter, work=work, resources=DRAWN)
    assert distance(made.folder) == pytest.approx(2 * distance(again.folder), rel=1e-3)


def test_too_few_pairs_unknown_targets_and_folders_that_exist_are_refused(
    model: Model, pairs: Cohort, tmp_path: Path
) -> None:
    few = write_trainable_cohort(tmp_path / "few", ["train", "validation"])
    with pytest.raises(InputRefused, match=r"2 pairs .* needs 20 or more\. Recalibrate instead"):
        tuned_on_pairs(model, few, tmp_path / "a", HOW, work=tmp_path / "w", resources=DRAWN)
    unknown = TuningSettings(targets="infarct")
    with pytest.raises(InputRefused, match="has no infarct"):
        tuned_on_pairs(model, pairs, tmp_path / "a", unknown, work=tmp_path / "w", resources=DRAWN)
    with pytest.raises(UsageError, match="exists"):
        tuned_on_pairs(model, pairs, tmp_path, HOW, work=tmp_path / "w", resources=DRAWN)


def test_a_departure_costs_in_every_channel_and_none_costs_nothing() -> None:
    said = torch.randn((2, 3, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    held = {0: False, 2: True}
    assert float(held_loss(said, said, held)) == pytest.approx(0, abs=1e-6)
    for channel in held:
        moved = said.clone()
        moved[:, channel] += 0.5
        farther = said.clone()
        farther[:, channel] += 2
        assert 0 < float(held_loss(moved, said, held)) < float(held_loss(farther, said, held))
    free = said.clone()
    free[:, 1] += 2
    assert float(held_loss(free, said, held)) == pytest.approx(0, abs=1e-6)


def test_each_target_is_held_as_firmly_however_many_there_are() -> None:
    said = torch.randn((1, 8, 4, 4, 4), generator=torch.Generator().manual_seed(3))
    moved = said.clone()
    moved[:, 0] += 1
    alone = held_loss(moved, said, {0: False})
    among = held_loss(moved, said, {k: False for k in range(8)})
    assert float(among) == pytest.approx(float(alone), rel=1e-4)


def test_the_parent_itself_departs_from_nothing_and_still_learns() -> None:
    parent = torch.nn.Conv3d(1, 2, 1)
    network = torch.nn.Conv3d(1, 2, 1)
    network.load_state_dict(parent.state_dict())
    image = torch.randn((1, 1, 4, 4, 4), generator=torch.Generator().manual_seed(2))
    batch = Batch(image, torch.ones(1, 1, 4, 4, 4), torch.ones(1, 1))
    targets = (TargetSpec(name="brain"), TargetSpec(name="ICH"))
    loss = HeldLoss(parent, targets, ("ICH",), lambda number: batch)(network, Step(0, 0.0))
    assert loss.measures["held"] == pytest.approx(0, abs=1e-6)
    loss.value.backward()
    gradient = network.weight.grad
    assert gradient is not None
    assert float(gradient[0].abs().max()) == pytest.approx(0, abs=1e-5)
    assert float(gradient[1].abs().max()) > 1e-3


def test_pairs_are_transferred_as_they_were_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blood that was read is left out of what the FLAIR shows, and nothing is trained on it."""
    calls: list[tuple[Path, list[str], tuple[str, ...]]] = []

    def transferred(root: Path, targets: list[str], *, settings: TransferOptions, progress: bool) -> None:
        calls.append((root, targets, settings.given))

    monkeypatch.setattr(tuning, "transfer_cohort", transferred)
    ct, root = grid(), tmp_path / "cohort"
    nifti.save(ct, tmp_path / "ct.nii.gz")
    nifti.save(grid(100.0), tmp_path / "flair.nii.gz")
    rows = ("patient\texam\ttime\tfile", "P\tct\t2026-03-01\tct.nii.gz", "P\tflair\t2026-03-02\tflair.nii.gz")
    (tmp_path / "exams.tsv").write_text("\n".join(rows))
    store_reading(tmp_path / "readings" / "1", ct, (measure("ich_volume", 4.0),), {"ICH": box(ct, 8)})
    (patient,) = learnable_cohort(tmp_path, tmp_path / "readings", root, "leukoaraiosis", salt="s")
    assert calls == [(root, ["leukoaraiosis"], ("manual", "readblood"))]
    blood = bids.derivative_path(root, patient.id, pipeline="readblood", label="haematoma", kind="dseg")
    assert blood.is_file()
    assert patient.targets == {}
    learnable_cohort(
        tmp_path, tmp_path / "readings", root, "haematoma", salt="s"
    )  # people drew it: no transfer
    assert len(calls) == 1


def test_adapt_takes_pairs_from_the_command_line(
    model: Model, pairs: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--pairs", str(pairs.root), "--targets", "ICH", "--steps", "2", "--pipelines", PIPELINE]
    assert run(["adapt", str(model.folder), "-o", str(tmp_path / "new"), *given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["taught"], Path(told["model"])) == (20, tmp_path / "new")
    both = ["--audit", str(tmp_path)]
    assert run(["adapt", str(model.folder), "-o", str(tmp_path / "x"), *given, *both]) != 0
