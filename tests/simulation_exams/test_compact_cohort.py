"""A compact cohort: an ordinary layout, a piece of each CT, the whole cohort's outlines and facts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.small_patient import small_patient
from ichnos.cli.simulate import SimulateSettings, _render
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti
from ichnos.inference.crops import haematoma_region, published_crops
from ichnos.learning.expansion.chain import check_whole_head
from ichnos.learning.expansion.labels import labelled
from ichnos.learning.expansion.pairs import pair_of
from ichnos.simulation.cohort import write as cohort_module
from ichnos.simulation.cohort.design import Design, Group, RenderSettings, Subject
from ichnos.simulation.cohort.write import simulate_cohort
from ichnos.volume import volume_ml

DESIGN = Design(
    (Group(1, "A", "train", ("ct", "followup")), Group(1, "B", "train", ("ct",), haematoma_share=0.0))
)


def small(subject: Subject, render: RenderSettings, cache: Path | None = None) -> object:
    del render, cache
    return small_patient(bleeds=subject.has_haematoma)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same two patients, written whole and compact."""
    patch, root = pytest.MonkeyPatch(), tmp_path_factory.mktemp("forms")
    patch.setattr(cohort_module, "make_subject", small)
    for name, compact in (("whole", False), ("compact", True)):
        summary = simulate_cohort(
            DESIGN, root / name, seed=3, render=RenderSettings(compact=compact), progress=False
        )
        assert not summary.failures
    patch.undo()
    return {name: root / name for name in ("whole", "compact")}


def test_both_forms_tell_the_same_outcome(folders: dict[str, Path]) -> None:
    cases = {name: list(labelled(bids.read_cohort(folder))) for name, folder in folders.items()}
    assert [len(found) for found in cases.values()] == [1, 1], "who does not bleed has no label"
    whole, compact = (cases[name][0] for name in ("whole", "compact"))
    assert compact.expanded == whole.expanded == 1
    assert compact.followup_ml == pytest.approx(whole.followup_ml, rel=0.03)
    assert volume_ml(compact.ich) == pytest.approx(volume_ml(whole.ich), rel=0.03)
    assert compact.patient.facts == whole.patient.facts


def test_learners_see_the_same_region_and_slices_in_both_forms(folders: dict[str, Path]) -> None:
    seen = {}
    for name, folder in folders.items():
        case = next(iter(labelled(bids.read_cohort(folder))))
        region = haematoma_region(case.hu, case.ich, case.ivh)
        seen[name] = region, np.stack([crop.mask for crop in published_crops(case.hu, case.ich, size=64)])
    (region, slices), (own_region, own_slices) = seen["whole"], seen["compact"]
    assert np.abs((region[2] > 0) ^ (own_region[2] > 0)).mean() < 0.01
    assert np.abs(region[0] - own_region[0])[2:-2, 2:-2, 2:-2].mean() < 0.12, "noise apart, the same head"
    assert np.abs(slices - own_slices).mean() < 0.1


def test_a_forecaster_s_pair_is_read_with_the_oracle(folders: dict[str, Path]) -> None:
    cohort = bids.read_cohort(folders["compact"])
    pair = pair_of(cohort, cohort.patients[0])
    assert pair is not None
    assert pair.later.sum() > 1.5 * pair.ich.sum()
    assert pair.oracle is not None
    assert pair.oracle.max() > 0.9
    assert pair.later_hu is None, "the follow-up CT is not simulated"


def test_it_is_small_and_who_does_not_bleed_is_a_row(folders: dict[str, Path]) -> None:
    size = {name: sum(f.stat().st_size for f in folder.rglob("*.nii.gz")) for name, folder in folders.items()}
    assert size["compact"] < 0.15 * size["whole"]
    cohort = bids.read_cohort(folders["compact"])
    assert [set(patient.exams) for patient in cohort] == [{"ct"}, set()], "no CT without blood"
    truth = {row["participant_id"]: row for row in _truth(folders["compact"])}
    assert float(truth["001"]["ich_ml"]) == pytest.approx(14.1, abs=1.0)
    assert truth["002"]["leukoaraiosis_ml"]


def test_the_truth_holds_how_far_blood_takes_the_tract(folders: dict[str, Path]) -> None:
    rows = {row["participant_id"]: row for row in _truth(folders["compact"])}
    assert 0 < float(rows["001"]["tract_largest_loss"]) <= 1
    assert float(rows["001"]["tract_weighted_blood_load_ml"]) >= float(rows["001"]["tract_blood_load_ml"]) > 0
    assert rows["002"]["tract_largest_loss"] in ("", "n/a")


def test_a_reader_refuses_a_piece_of_a_head(folders: dict[str, Path]) -> None:
    piece, head = (
        nifti.load(bids.read_cohort(folders[n]).patients[0].exam("ct")) for n in ("compact", "whole")
    )
    check_whole_head(head, "001")
    with pytest.raises(InputRefused, match=r"piece of a head.*expansion\.masks=outlines"):
        check_whole_head(piece, "001")


def test_compact_is_coarse_and_no_dicom() -> None:
    assert _render(SimulateSettings(compact=True)).voxel_mm == 2.0
    assert _render(SimulateSettings(compact=True, voxel_mm=1.5)).voxel_mm == 1.5
    assert _render(SimulateSettings()).voxel_mm == 1.0
    with pytest.raises(UsageError, match="leave out --dicom"):
        _render(SimulateSettings(compact=True, dicom=True))


def _truth(folder: Path) -> list[dict[str, str]]:
    return bids.read_participants(folder / "derivatives" / "truth")
