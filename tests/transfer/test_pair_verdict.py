"""Pairs judged on a painted head: the right one passes, broken ones fail with a cause, and a person has
the last word.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builders.painted import anatomy, painted, posed
from ichnos.cli.main import run
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti
from ichnos.registration import Transform, assess, register
from ichnos.registration.contrast import view
from ichnos.runs import Numbered, apply
from ichnos.transfer.landmarks import find_landmarks, landmark_residual_mm
from ichnos.transfer.pair_numbers import PairNumbers, brain_of_ct, measure_pair
from ichnos.transfer.pair_verdict import judge_pair, judge_target
from ichnos.transfer.pairs import settle
from ichnos.transfer.run import _refuse_unknown, _settled
from ichnos.transfer.sheet import pair_sheet, read_overrides
from ichnos.verdict import Verdict
from ichnos.volume import Affine, Volume, sphere, volume_ml


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume, Transform]:
    ct = painted("ct").resampled((1.0, 1.0, 4.0), fill=-1000.0)
    flair, truth = posed(painted("flair", seed=1), (6, -4, 5), (4, 2, 8))
    return ct, flair, Transform.of(truth)


def test_the_right_pair_passes(pair: tuple[Volume, Volume, Transform]) -> None:
    ct, flair, truth = pair
    numbers = measure_pair(ct, flair, assess(truth, ct, flair))
    assert numbers.margin > 0.1
    assert numbers.mirror_margin > 0.05
    assert judge_pair(numbers).level == "pass"


def test_a_brain_without_its_skull_is_no_half_head(pair: tuple[Volume, Volume, Transform]) -> None:
    ct, flair, truth = pair
    bare = flair.with_array(np.where(anatomy().array >= 3, flair.array, 0).astype(np.float32))
    assert assess(truth, ct, bare).head_overlap < 0.88  # as heads they would not do
    assert judge_pair(measure_pair(ct, bare, assess(truth, ct, bare))).level == "pass"
    away = np.eye(4)
    away[:3, 3] = (0, 16, 12)
    far = measure_pair(ct, bare, assess(Transform.of(Affine(away)) @ truth, ct, bare))
    assert "head_overlap" in {reason.name for reason in judge_pair(far).at("refuse")}


@pytest.mark.parametrize("broken", ["flipped", "shifted", "half"])
def test_a_broken_pair_fails_with_a_cause(pair: tuple[Volume, Volume, Transform], broken: str) -> None:
    ct, flair, transform = pair
    if broken == "flipped":
        flair = flair.with_array(np.ascontiguousarray(flair.array[::-1]))
        transform = register(ct, flair).transform
    elif broken == "shifted":
        shift = np.eye(4)
        shift[:3, 3] = (0, 16, 12)
        transform = Transform.of(Affine(shift)) @ transform
    else:
        array = np.array(flair.array)
        array[: array.shape[0] // 2] = 0
        flair = flair.with_array(array)
    verdict = judge_pair(measure_pair(ct, flair, assess(transform, ct, flair)))
    assert verdict.level == "refuse"
    assert all(reason.value is not None for reason in verdict.at("refuse"))


@pytest.mark.parametrize("seam_mm", [0, 8])
def test_brain_of_a_ct_is_the_inside_of_the_skull(seam_mm: int) -> None:
    ct = painted("ct")
    y, z = (ct.world(np.indices(ct.shape).transpose(1, 2, 3, 0))[..., axis] for axis in (1, 2))
    # a suture, or bone too thin to be seen, from top to base
    seam = (np.abs(y + 10 - z / 3) < seam_mm / 2) & (anatomy().array == 2)
    found = brain_of_ct(
        view(ct.with_array(np.where(seam, 40, ct.array).astype(np.float32)), spacing_mm=2.0, contrast="ct")
    )
    inside = np.isin(anatomy().array, (3, 4, 5))
    expected = anatomy().with_array(inside.astype(np.uint8)).on_grid(found, interpolation="nearest").array > 0
    both = 2 * (expected & found.array).sum() / (expected.sum() + found.array.sum())
    assert both > 0.9


def test_a_long_interval_and_an_implausible_target_are_named() -> None:
    good = PairNumbers(0.2, 0.1, 0.3, 1.2, 0.97, 1.0, 1.0, 0.7, 1.4)
    assert judge_pair(good).level == "pass"
    assert judge_pair(good, interval_h=24 * 200).at("warn")[0].name == "interval"
    ball = sphere(radius_mm=40, spacing_mm=2.0)
    assert judge_target("leukoaraiosis", ball, ball).level == "warn"  # 268 mL
    far = sphere(radius_mm=10, spacing_mm=2.0, centre_mm=(200, 0, 0))
    assert judge_target("leukoaraiosis", far, ball).level == "refuse"
    empty = ball.with_array(np.zeros(ball.shape, np.uint8))
    assert judge_target("tract_left", empty, ball).level == "refuse"
    assert judge_target("leukoaraiosis", empty, ball).level == "pass"


def test_marked_points_that_do_not_meet_are_a_cause(tmp_path: Path) -> None:
    good = PairNumbers(0.2, 0.1, 0.3, 1.2, 0.97, 1.0, 1.0, 0.7, 1.4)
    table = tmp_path / "derivatives" / "manual" / "sub-1" / "sub-1_landmarks.tsv"
    table.parent.mkdir(parents=True)
    lines = [
        "exam\tname\tx\ty\tz",
        "ct\tpineal\t0\t-30\t2",
        "ct\tseptum\t0\t10\t12",
        "flair\tpineal\t5\t-30\t2",
        "flair\tother\t0\t0\t0",
    ]
    table.write_text("\n".join(lines) + "\n")
    marks = find_landmarks(tmp_path, "1", ("truth", "manual"))
    right = np.eye(4)
    right[0, 3] = 5
    assert landmark_residual_mm(marks, "flair", Transform.of(Affine(right))) == 0
    assert np.isnan(landmark_residual_mm(marks, "followup", Transform()))
    assert np.isnan(landmark_residual_mm(find_landmarks(tmp_path, "2", ("manual",)), "flair", Transform()))
    verdict = judge_pair(good, landmark_mm=landmark_residual_mm(marks, "flair", Transform()))
    assert [reason.name for reason in verdict.at("warn")] == ["landmarks"]
    assert judge_pair(good, landmark_mm=20.0).level == "refuse"
    table.write_text("exam\tname\tx\ty\tz\nmr\tpineal\t0\t0\t0\n")
    with pytest.raises(InputRefused, match="line 2: exam 'mr' is unknown"):
        find_landmarks(tmp_path, "1", ("manual",))


def test_the_contact_sheet_shows_the_target(pair: tuple[Volume, Volume, Transform]) -> None:
    ct, flair, truth = pair
    brain = brain_of_ct(view(ct, spacing_mm=2.0, contrast="ct"))
    ball = sphere(radius_mm=15, spacing_mm=1.0, centre_mm=(25, 0, 20)).on_grid(ct, interpolation="nearest")
    with_target = np.asarray(pair_sheet(ct, flair, truth, ball, brain, title="a", verdict=Verdict()))
    without = np.asarray(pair_sheet(ct, flair, truth, None, brain, title="a", verdict=Verdict()))
    changed = np.argwhere((with_target != without).any(axis=-1))
    assert len(changed) > 50
    tile = (changed % 190)[:, 1]
    assert np.median(tile) < 95  # the ball lies in the patient's right, which the sheet shows on the left
    assert Image.fromarray(with_target).width == 7 * 190


def _rows(root: Path) -> list[dict[str, object]]:
    file = "sub-1/ses-baseline/sub-1_ses-baseline_label-expansion_dseg.nii.gz"
    place = root / "derivatives" / "transferrejected" / file
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    return [{"id": "1-expansion", "verdict": "refuse", "causes": "flipped", "files": [file]}]


def test_a_person_overrules_a_verdict_and_may_take_it_back(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    accepted = tmp_path / "derivatives" / "transfer" / str(rows[0]["files"][0])  # type: ignore[index]
    table = tmp_path / "override.tsv"
    table.write_text("id\tverdict\twho\twhy\n1-expansion\tpass\tdr a\tlooked at it\n")
    now = settle(tmp_path, rows, read_overrides(table))
    assert accepted.is_file()
    assert now[0]["verdict"] == "pass"
    assert "dr a looked at it" in str(now[0]["causes"])
    settle(tmp_path, rows, {})
    assert not accepted.exists()
    with pytest.raises(UsageError, match="no such pair"):
        settle(tmp_path, rows, {"9-tract": ("pass", "")})
    table.write_text("id\tverdict\n1-expansion\tmaybe\n")
    with pytest.raises(InputRefused, match="maybe"):
        read_overrides(table)


def _cohort(root: Path) -> None:
    """Two patients with a follow-up: one whole, one whose follow-up has two slices."""
    ct = painted("ct", noise=5.0).resampled((1.5, 1.5, 5.0), fill=-1000.0)
    later, truth = posed(painted("ct", seed=2, noise=5.0), (5, 3, -4), (3, 4, -5))
    small = sphere(radius_mm=12, spacing_mm=1.0, centre_mm=(25, -5, 10))
    large = Volume(
        (big := sphere(radius_mm=16, spacing_mm=1.0, centre_mm=(25, -5, 10))).array, truth.matrix @ big.affine
    )
    masks = {
        "ct": small.on_grid(ct, interpolation="nearest"),
        "followup": large.on_grid(later, interpolation="nearest"),
    }
    for who in ("1", "2"):
        for exam, image in (("ct", ct), ("followup", later)):
            blood = image.with_array(np.where(masks[exam].array, 62, image.array).astype(np.int16))
            cut = Volume(blood.array[:, :, :2], blood.affine) if who == "2" and exam == "followup" else blood
            bids.write_exam(root, who, exam, cut)  # type: ignore[arg-type]
            drawn = Volume(masks[exam].array[:, :, : cut.shape[2]].astype(np.uint8), cut.affine)
            bids.write_derivative(
                root, who, drawn, pipeline="manual", label="haematoma", kind="dseg", exam=exam
            )  # type: ignore[arg-type]
    (root / "participants.tsv").write_text(
        "participant_id\tcentre\tsplit\tct_to_followup_h\nsub-1\tA\ttrain\t24\nsub-2\tA\ttrain\t24\n"
    )


def test_a_cohort_end_to_end_with_one_bad_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _cohort(tmp_path)
    call = ["transfer", str(tmp_path), "--targets", "expansion", "--nnunet", "Dataset101_Expansion", "--json"]
    assert run(call) == 2  # one pair gave nothing; the other did
    told = json.loads(capsys.readouterr().out)
    assert [f["id"] for f in told["failures"]] == ["2-expansion"]
    row = told["pairs"][0]
    assert row["verdict"] == "pass", row["causes"]
    ball = sphere(radius_mm=16, spacing_mm=1.0)
    grown_ml = volume_ml(ball) - volume_ml(sphere(radius_mm=12, spacing_mm=1.0))
    assert abs(row["growth_ml"] - grown_ml) < 1.5
    assert row["expanded 33%-or-6ml"] == 1
    target = bids.derivative_path(tmp_path, "1", pipeline="transfer", label="expansion", kind="dseg")
    assert nifti.load(target).same_grid(nifti.load(bids.exam_path(tmp_path, "1", "ct")))
    assert (tmp_path / "derivatives/nnunet/Dataset101_Expansion/labelsTr/1.nii.gz").is_file()
    assert "2-expansion" in Path(told["index"]).read_text()


def _judged(item: Numbered, folder: Path) -> dict[str, object]:
    del folder, item
    return {"verdict": "pass", "causes": "", "files": []}


def test_targets_of_an_earlier_call_stay_on_the_page_and_may_be_overruled(tmp_path: Path) -> None:
    for number in (1, 2):  # two calls, each with a target of its own
        how = {"out": tmp_path, "settings": {}, "name": "transfer", "progress": False}
        done = apply(_judged, [Numbered(number)], **how)
    accepted = tmp_path / "derivatives" / "transfer"
    accepted.mkdir(parents=True)
    (accepted / "override.tsv").write_text(f"id\tverdict\n{Numbered(1).id}\tfail\n")
    rows, page = _settled(tmp_path, done)
    assert {row["id"]: row["verdict"] for row in rows} == {Numbered(1).id: "refuse", Numbered(2).id: "pass"}
    assert all(f"sheets/{Numbered(n).id}.png" in page.read_text(encoding="utf-8") for n in (1, 2))


def test_masks_of_a_pipeline_that_is_not_there_are_not_replaced_by_others(tmp_path: Path) -> None:
    (tmp_path / "derivatives" / "outlines").mkdir(parents=True)
    _refuse_unknown(tmp_path, ("manual", "outlines"))
    with pytest.raises(UsageError, match="--given manul: derivatives/ has outlines"):
        _refuse_unknown(tmp_path, ("manul",))


def test_wrong_calls_say_what_is_possible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["transfer", str(tmp_path), "--targets", "outcome"]) == 3
    assert "expansion" in capsys.readouterr().err
    assert run(["transfer", str(tmp_path)]) == 2
    assert "participants.tsv" in capsys.readouterr().err


@pytest.mark.slow
def test_a_transfer_is_run_again_with_other_settings_or_into_another_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _cohort(tmp_path)
    (tmp_path / "derivatives" / "manual").rename(tmp_path / "derivatives" / "other")
    call = ["transfer", str(tmp_path), "--targets", "expansion", "--json"]
    assert run(call) == 2
    failures = json.loads(capsys.readouterr().out)["failures"]
    assert any("give --given other" in failure["why"] for failure in failures), failures
    assert run([*call, "--given", "other"]) == 3  # other settings in the same folder
    assert "given" in capsys.readouterr().err
    assert run([*call, "--given", "other", "-o", str(tmp_path / "elsewhere")]) == 2
    assert [row["id"] for row in json.loads(capsys.readouterr().out)["pairs"]] == ["1-expansion"]
    override = tmp_path / "derivatives" / "transfer" / "override.tsv"
    override.write_text("id\tverdict\tby\n1-expansion\tfail\tme\n")
    assert run([*call, "--given", "other", "--restart"]) == 2
    (row,) = json.loads(capsys.readouterr().out)["pairs"]
    assert "overruled by a person" in row["causes"], "what a person has said stays"
    made = bids.derivative_path("", "1", pipeline="transfer", label="expansion", kind="dseg")
    assert (tmp_path / "elsewhere" / made).is_file()
