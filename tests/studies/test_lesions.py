"""The lesion study on made people whose deficit follows their tract, and on folders that cannot be used."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ichnos.anatomy.tract import population
from ichnos.errors import InputRefused
from ichnos.formats import nifti
from ichnos.studies.lesions import lesion_study
from ichnos.studies.lesions.injuries import measured_lesion
from ichnos.studies.lesions.people import LesionCase, lesion_cases
from ichnos.studies.lesions.tables import r_squared
from ichnos.volume import Volume

HEADER = "participant_id\tsex\tage\tnihss\tgs_rankin_6isdeath\n"
AFFINE = np.array([[-2.0, 0, 0, 60], [0, 2.0, 0, -70], [0, 0, 2.0, -40], [0, 0, 0, 1]])


def ball(centre: tuple[float, float, float], radius_mm: float) -> Volume:
    grid = Volume(np.zeros((61, 60, 55), np.uint8), AFFINE)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    return grid.with_array(
        (np.linalg.norm(grid.world(index) - centre, axis=-1) <= radius_mm).astype(np.uint8)
    )


def write(folder: Path, people: list[tuple[str, str]], masks: dict[str, Volume]) -> Path:
    (folder / "lesions").mkdir(parents=True, exist_ok=True)
    (folder / "participants.tsv").write_text(HEADER + "".join(f"{i}\t{rest}\n" for i, rest in people))
    for name, mask in masks.items():
        nifti.save(mask, folder / "lesions" / f"w{name}_lesion.nii.gz")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 40 people: lesions in and beside the tract; the deficit follows the tract, not the volume."""
    rng = np.random.default_rng(3)
    people, masks = [], {}
    for k in range(40):
        on_tract = k % 2 == 0
        side = -1 if k % 4 < 2 else 1
        x = side * (24 if on_tract else 44)
        masks[f"sub-{k}"] = ball((x, -16.0, 10.0 + k % 5), rng.uniform(4, 12))
        nihss = (14 if on_tract else 3) + int(rng.integers(0, 3))
        age = "89+" if k == 0 else f"{rng.uniform(50, 80):.0f}"
        rankin = "n/a" if k % 7 == 0 else str(min(5, (3 if on_tract else 1) + int(rng.integers(0, 3))))
        people.append((f"sub-{k}", f"{'MF'[k // 2 % 2]}\t{age}\t{nihss}\t{rankin}"))
    people.append(("sub-x", "M\t70\t5\t2"))  # without a mask
    people.append(("sub-y", "F\t70\tn/a\t2"))
    return write(tmp_path_factory.mktemp("lesions"), people, masks)


def test_a_lesion_in_the_capsule_takes_most_of_one_side_and_none_of_the_other(tmp_path: Path) -> None:
    write(tmp_path, [], {"sub-1": ball((-23.0, -15.0, 8.0), 9)})
    case = LesionCase("sub-1", tmp_path / "lesions" / "wsub-1_lesion.nii.gz", 60, 1, 10, math.nan)
    row = measured_lesion(case, tmp_path)
    assert row["largest_loss_left"] > 0.9
    assert row["largest_loss_right"] == 0
    assert row["largest_loss"] == row["largest_loss_left"]
    assert row["left_share"] == 1
    assert 0 < row["load_ml"] < row["weighted_load_ml"]
    assert row["load_ml"] < min(row["volume_ml"], population("left").array.sum() / 1000)


def test_the_page_finds_what_the_tract_adds_and_resumes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ichnos.studies.lesions.tables.REPEATS", 60)
    page = lesion_study(made, tmp_path)
    table = {name: table for name, table in ((t.name, t) for t in page.tables)}
    rows = [dict(zip(table["nihss"].columns, row, strict=True)) for row in table["nihss"].rows]
    loss = next(row for row in rows if row["measure"] == "largest cross-section loss")
    assert loss["added R²"].low > 0.3
    assert loss["coefficient per SD"].low > 0
    assert loss["R²"].value > rows[0]["R²"].value
    sides = {row[0] for row in table["sides"].rows}
    assert sides == {"left", "right"}
    odds = dict(zip(table["rankin"].columns, table["rankin"].rows[-1], strict=True))
    assert odds["people"] == 34
    ledger = sorted(tmp_path.rglob("*.jsonl"))
    before = [path.read_text() for path in ledger]
    again = lesion_study(made, tmp_path)
    assert [path.read_text() for path in ledger] == before
    assert again.tables == page.tables


def test_people_without_mask_or_nihss_are_left_out_and_ages_are_capped(made: Path) -> None:
    cases = lesion_cases(made)
    assert len(cases) == 40
    assert cases[0].age_years == 89
    assert math.isnan(cases[0].rankin)


def test_folders_that_cannot_be_used_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"participants.tsv does not exist"):
        lesion_cases(tmp_path)
    write(tmp_path, [("sub-1", "M\told\t3\t1")], {})
    with pytest.raises(InputRefused, match="line 2: age is 'old'"):
        lesion_cases(tmp_path)
    write(tmp_path, [("sub-1", "M\t60\t3\t1")], {})
    with pytest.raises(InputRefused, match="no person"):
        lesion_cases(tmp_path)
    write(tmp_path, [("sub-1", "M\t60\t3\t1")], {"sub-1": ball((-23, -15, 8), 5)})
    with pytest.raises(InputRefused, match="1 people"):
        lesion_study(tmp_path, tmp_path / "out")
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-1\tM\n")
    with pytest.raises(InputRefused, match="age, nihss"):
        lesion_cases(tmp_path)


def test_variance_explained_is_zero_for_noise_and_one_for_a_line() -> None:
    x = np.linspace(0, 1, 200)
    assert r_squared(3 * x, x[:, None]) == pytest.approx(1)
    assert r_squared(np.sin(97 * x), np.cos(89 * x)[:, None]) < 0.05
