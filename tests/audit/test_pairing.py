"""Plain CTs find their partner exams within windows, once per patient, and the cohort names nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.head import head_hu
from builders.series import Quirks, build_series
from ichnos.audit.exams import DatedExam, FoundExams, exams_in
from ichnos.audit.pairing import PairWindows, episodes_of, pair_exams
from ichnos.cli.main import run
from ichnos.cohort import Exam
from ichnos.errors import InputRefused
from ichnos.formats import bids, nifti
from ichnos.volume import Volume

NOON = datetime(2026, 3, 1, 12)


def exam(kind: Exam, hours: float, patient: str = "P", name: str = "") -> DatedExam:
    return DatedExam(patient, kind, NOON + timedelta(hours=hours), Path(name or f"{kind}{hours}.nii.gz"))


def test_a_follow_up_counts_within_its_window_alone() -> None:
    hours = {h: len(episodes_of([exam("ct", 0), exam("ct", h)], PairWindows())) for h in (5, 6, 72, 73)}
    assert hours == {5: 0, 6: 1, 72: 1, 73: 0}


def test_the_follow_up_nearest_to_a_day_is_taken_and_the_first_flair() -> None:
    exams = [exam("ct", h) for h in (0, 7, 20, 60)] + [exam("flair", 50), exam("flair", 400)]
    (episode,) = episodes_of(exams, PairWindows())
    assert (episode.hours_to("followup"), episode.hours_to("flair")) == (20, 50)
    assert "diffusion" not in episode.partners


def test_a_patient_counts_once_with_the_earliest_baseline_that_has_a_partner() -> None:
    exams = [exam("ct", 0), exam("ct", 1000), exam("ct", 1024), exam("ct", 2000), exam("ct", 2024)]
    (episode,) = episodes_of(exams, PairWindows())
    assert episode.baseline.taken == NOON + timedelta(hours=1000)


def test_exams_of_two_patients_never_mix() -> None:
    assert episodes_of([exam("ct", 0, "P"), exam("ct", 24, "Q"), exam("flair", 24, "Q")], PairWindows()) != []
    assert episodes_of([exam("ct", 0, "P"), exam("flair", 24, "Q")], PairWindows()) == []


def test_a_t1_alone_makes_no_pair() -> None:
    assert episodes_of([exam("ct", 0), exam("t1", 24)], PairWindows()) == []


@given(st.lists(st.floats(0, 200), min_size=1, max_size=6, unique=True), st.randoms())
def test_the_order_of_listing_does_not_matter(hours: list[float], random: object) -> None:
    exams = [exam("ct", h) for h in hours]
    shuffled = exams[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert episodes_of(exams, PairWindows()) == episodes_of(shuffled, PairWindows())


def test_ids_are_salted_and_change_with_a_new_partner_only_in_the_ledger() -> None:
    exams = [exam("ct", 0), exam("ct", 24)]
    (a,), (b,) = (episodes_of(exams, PairWindows(), salt=salt) for salt in ("x", "y"))
    assert a.patient_id != b.patient_id
    (later,) = episodes_of([*exams, exam("flair", 48)], PairWindows(), salt="x")
    assert later.patient_id == a.patient_id
    assert later.id != a.id  # so that the new partner is written


# ---- from files


def small(value: float) -> Volume:
    return Volume(np.full((8, 8, 4), value, np.int16), np.diag([2.0, 2.0, 5.0, 1.0]))


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    folder = tmp_path / "exams"
    folder.mkdir()
    for name, value in (("a", 30), ("b", 31), ("f", 100)):
        nifti.save(small(value), folder / f"{name}.nii.gz")
    rows = ["patient\texam\ttime\tfile"]
    rows += ["DOE\tct\t2026-03-01T10:00\ta.nii.gz", "DOE\tct\t2026-03-02T10:00\tb.nii.gz"]
    (folder / "exams.tsv").write_text("\n".join(rows) + "\n")
    return folder


def add_flair(folder: Path) -> None:
    with (folder / "exams.tsv").open("a") as table:
        table.write("DOE\tflair\t2026-03-05T10:00\tf.nii.gz\n")


def test_listed_files_become_a_cohort_and_a_later_partner_joins(listed: Path, tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    first = pair_exams(exams_in(listed), out, centre="north")
    assert (first.counts["followup"], first.counts["flair"], first.done_now) == (1, 0, 1)
    again = pair_exams(exams_in(listed), out, centre="north")
    assert again.done_now == 0
    add_flair(listed)
    later = pair_exams(exams_in(listed), out, centre="north")
    (patient,) = later.cohort
    assert (later.done_now, later.counts["flair"], len(later.cohort)) == (1, 1, 1)
    assert patient.centre == "north"
    assert patient.facts["ct_to_followup_h"] == 24.0
    assert patient.facts["month"] == "2026-03"
    assert nifti.load(patient.exam("followup")).array.max() == 31


def test_nothing_that_was_written_names_the_patient(listed: Path, tmp_path: Path) -> None:
    pair_exams(exams_in(listed), tmp_path / "cohort")
    texts = [
        p for p in (tmp_path / "cohort").rglob("*") if p.is_file() and p.suffix in (".json", ".tsv", ".jsonl")
    ]
    assert texts
    for path in texts:
        assert "DOE" not in path.read_text(), path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("DOE\tpet\t2026-03-01\ta.nii.gz", "exam 'pet' is unknown"),
        ("DOE\tct\tyesterday\ta.nii.gz", "time 'yesterday'"),
        ("DOE\tct\t2026-03-01\tz.nii.gz", "is not there"),
    ],
)
def test_a_wrong_line_is_refused_by_its_number(listed: Path, line: str, words: str) -> None:
    with (listed / "exams.tsv").open("a") as table:
        table.write(line + "\n")
    with pytest.raises(InputRefused, match=f"line 4.*{words}"):
        exams_in(listed)


def test_a_place_without_pairs_is_refused_with_counts(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no pair among 1 dated exams"):
        pair_exams(FoundExams((exam("ct", 0),)), tmp_path)


def mri(folder: Path, description: str, date: str, hu: Callable[[np.ndarray], np.ndarray]) -> None:
    header = {"date": date, "description": description, "seed": description, "intercept": 0.0}
    quirks = Quirks(steps_mm=(5.0,) * 11, header=header, tags={"Modality": "MR"})
    build_series(lambda mm: np.maximum(hu(mm), 0), folder, quirks)


def test_a_folder_of_dicom_gives_ct_follow_up_and_flair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hu, folder = head_hu(), tmp_path / "dicom"
    for date, bleed_mm in (("20260301", 10.0), ("20260302", 14.0)):
        header = {"date": date, "seed": date, "patient_id": "MADE"}
        build_series(head_hu(bleed_mm=bleed_mm), folder / date, Quirks(header=header))
    mri(folder / "flair", "t2_FLAIR_ax", "20260304", hu)
    mri(folder / "dwi", "ep2d_diff_DTI", "20260304", hu)
    assert run(["pair", str(folder), "-o", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pairs"] == {"followup": 1, "flair": 1, "diffusion": 0}
    (patient,) = bids.read_cohort(tmp_path / "out")
    assert "diffusion: dcm2niix found 0 images with gradients" in str(patient.facts["left_out"])
    assert patient.facts["scanner"]
    first, later = (nifti.load(patient.exam(e)).array for e in ("ct", "followup"))
    assert (later > 55).sum() > (first > 55).sum()
    assert nifti.load(patient.exam("flair")).array.min() >= 0


def _table(folder: Path, *rows: str) -> Path:
    for name in ("a", "b"):
        nifti.save(small(30), folder / f"{name}.nii.gz")
    (folder / "exams.tsv").write_text("\n".join(("patient\texam\ttime\tfile", *rows)) + "\n")
    return folder


@pytest.mark.parametrize("patient", ["", " ", "n/a"])
def test_a_row_without_a_patient_is_refused_and_paired_with_nobody(patient: str, tmp_path: Path) -> None:
    rows = [f"{patient}\tct\t2026-03-0{day}T10:00\t{name}.nii.gz" for day, name in ((1, "a"), (2, "b"))]
    with pytest.raises(InputRefused, match="line 2: the patient is missing"):
        exams_in(_table(tmp_path, *rows))


def test_times_count_in_one_zone(tmp_path: Path) -> None:
    first, later = "P\tct\t2026-03-01T12:00+00:00\ta.nii.gz", "P\tct\t2026-03-01T20:30+03:00\tb.nii.gz"
    times = [one.taken for one in exams_in(_table(tmp_path, first, later)).exams]
    assert times[1] - times[0] == timedelta(hours=5.5)
    with pytest.raises(InputRefused, match="an offset from UTC and times without"):
        exams_in(_table(tmp_path, first, later.replace("+03:00", "")))
