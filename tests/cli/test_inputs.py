"""What a user names: scans of every kind get ids of their own, and facts find their scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.series import Quirks, ball, build_series
from ichnos.cli.inputs.facts import read_facts
from ichnos.cli.inputs.scans import ScanItem, _safe, find_scans, find_studies, with_facts
from ichnos.cli.main import run
from ichnos.cohort import Patient
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti
from ichnos.formats.limits import Limits
from ichnos.volume import Volume


def small(file: Path) -> Path:
    nifti.save(Volume(np.zeros((4, 4, 4), np.int16), np.eye(4)), file)
    return file


def items(*paths: Path) -> list[ScanItem]:
    return find_scans(list(paths), progress=False)


def test_files_and_folders_of_files_are_listed_once(tmp_path: Path) -> None:
    files = [small(tmp_path / name) for name in ("a.nii.gz", "sub/b.nii", "sub/c.NII.GZ")]
    (tmp_path / "notes.txt").write_text("no scan")
    found = items(tmp_path, files[0])
    assert [item.place for item in found] == sorted(files)
    assert [item.id for item in found] == ["a", "b", "c"]


def test_two_files_of_one_name_get_two_ids_that_stay(tmp_path: Path) -> None:
    one, two = small(tmp_path / "x" / "ct.nii.gz"), small(tmp_path / "y" / "ct.nii.gz")
    first = {item.place: item.id for item in items(one, two)}
    assert len(set(first.values())) == 2
    assert {item.place: item.id for item in items(two, one)} == first
    assert all(name.startswith("ct-") for name in first.values())


def test_a_place_without_scans_is_a_refusal_that_opens_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (item,) = items(tmp_path / "empty")
    assert item.refusal
    with pytest.raises(InputRefused):
        item.open()


def test_a_place_that_does_not_exist_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="does not exist"):
        items(tmp_path / "nowhere")


def test_a_cohort_gives_both_cts_of_each_patient_and_lasting_facts_for_the_second(tmp_path: Path) -> None:
    told = {"age_years": 80.0, "onset_to_ct_h": 3.0}
    bids.write_cohort([Patient("A1", facts=told)], tmp_path, name="made")
    for exam in ("ct", "followup"):
        small(bids.exam_path(tmp_path, "A1", exam))  # type: ignore[arg-type]
    first, second = items(tmp_path)
    assert (first.id, second.id) == ("sub-A1_ses-baseline", "sub-A1_ses-followup")
    assert dict(first.facts) == told
    assert dict(second.facts) == {"age_years": 80.0}


def test_a_nifti_file_is_a_study_to_convert(tmp_path: Path) -> None:
    file = small(tmp_path / "a.nii.gz")
    (item,) = find_studies(file, progress=False)
    assert (item.place, item.study, item.refusal) == (file, None, "")


@given(st.text(max_size=40))
def test_any_name_becomes_the_name_of_a_folder(name: str) -> None:
    safe = _safe(name)
    assert safe
    assert set(safe) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not safe.startswith(".")
    assert _safe(safe) == safe


def scans(*names: str) -> list[ScanItem]:
    return [ScanItem(f"scan-{n}", f"{n}.nii.gz", Path(f"{n}.nii.gz"), label=n) for n in names]


def test_facts_find_a_scan_by_its_id_or_by_its_file(tmp_path: Path) -> None:
    given = with_facts(scans("a", "b"), {"a": {"gcs": 9.0}, "scan-b": {"gcs": 14.0}})
    assert [item.facts["gcs"] for item in given] == [9.0, 14.0]


def test_a_row_for_nobody_is_a_slip_of_the_keyboard() -> None:
    with pytest.raises(UsageError, match="no scan has that id"):
        with_facts(scans("a"), {"z": {"gcs": 9.0}})


def table(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "facts.tsv"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_table_is_read_and_what_is_unknown_left_out(tmp_path: Path) -> None:
    rows = read_facts(table(tmp_path, "id\tage_years\tgcs\nx\t71\tn/a\ny\t\t15\n"))
    assert rows == {"x": {"age_years": 71.0}, "y": {"gcs": 15.0}}


@pytest.mark.parametrize(
    ("text", "kind", "word"),
    [
        ("age_years\n71\n", UsageError, "column id"),
        ("id\tshoe\nx\t44\n", UsageError, "shoe"),
        ("id\tgcs\nx\t99\n", InputRefused, "gcs"),
        ("id\tgcs\nx\t9\nx\t8\n", InputRefused, "twice"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_name(
    text: str, kind: type[Exception], word: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=word):
        read_facts(table(tmp_path, text))


def test_limits_reach_the_files_of_every_kind(tmp_path: Path) -> None:
    limits = Limits(voxels=10)
    build_series(ball(8), tmp_path / "dicom", Quirks(steps_mm=(5.0,) * 11, shape=(32, 32), pixel_mm=3.0))
    for place in (small(tmp_path / "a.nii.gz"), tmp_path / "dicom"):
        for item in (
            *find_scans([place], progress=False, limits=limits),
            *find_studies(place, progress=False, limits=limits),
        ):
            with pytest.raises(InputRefused, match=r"limits\.voxels=N"):
                item.open()


@pytest.mark.parametrize("verb", ["inspect", "convert"])
def test_a_verb_takes_limits_as_settings(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        verb,
        str(small(tmp_path / "a.nii.gz")),
        *(["-o", str(tmp_path / "o")] if verb == "convert" else []),
    ]
    assert run([*words, "--set", "limits.voxels=10"]) == 2
    assert "limits.voxels=N" in "".join(capsys.readouterr())


def test_the_limits_of_a_reading_are_among_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "read"]) == 0
    assert f"  voxels: {Limits().voxels}\n" in capsys.readouterr().out
    assert run(["inspect", "nowhere", "--set", "limits.voxels=0"]) == 3
    assert "limits.voxels" in capsys.readouterr().err
