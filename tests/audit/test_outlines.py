"""What people draw in any viewer becomes a manual label, ranks by its author, and readers are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.head import head_hu
from builders.outlines import block, drawn_by
from builders.series import Quirks, build_series
from ichnos.audit.exams import exams_in
from ichnos.audit.outlines import (
    ReaderPair,
    labels_drawn,
    outlines_in,
    reader_pairs,
    reader_pseudonym,
    readers_table,
)
from ichnos.audit.pairing import pair_exams
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.intervals import mean_interval
from ichnos.formats import bids, nifti
from ichnos.formats.dicom import open_dicom
from ichnos.formats.dicom_seg import write_seg
from ichnos.scan import Scan
from ichnos.volume import Volume


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Scan]:
    folder = tmp_path / "dicom"
    for date in ("20260301", "20260302"):
        build_series(head_hu(bleed_mm=10), folder / date, Quirks(header={"date": date, "seed": date}))
    return folder, open_dicom(folder / "20260301")


def manual(root: Path, patient: str) -> Volume:
    return nifti.load(bids.derivative_path(root, patient, pipeline="manual", label="haematoma", kind="dseg"))


def test_an_outline_becomes_the_manual_label_of_its_ct(place: tuple[Path, Scan], tmp_path: Path) -> None:
    folder, scan = place
    drawn_by(scan, folder / "seg" / "a.dcm", "DOE^JANE", 50)
    (patient,) = pair_exams(exams_in(folder), tmp_path / "out").cohort
    labels = manual(tmp_path / "out", patient.id)
    assert np.count_nonzero(labels.array == 1) == 20 * 30 * 6
    assert patient.targets["haematoma"].parts[-4] == "manual"  # before any transfer
    assert nifti.load(patient.exam("ct")).same_grid(labels)
    written = [p.read_text() for p in (tmp_path / "out").rglob("*.json")]
    assert not any("DOE" in text for text in written)


def test_our_own_results_that_come_back_are_no_outlines(place: tuple[Path, Scan]) -> None:
    folder, scan = place
    write_seg(scan, {"ICH": block(scan, 50)}, folder / "seg" / "own.dcm")
    (folder / "notes.txt").write_text("no DICOM")
    assert outlines_in(folder) == []


def test_the_role_decides_and_of_equals_the_last(place: tuple[Path, Scan], tmp_path: Path) -> None:
    folder, scan = place
    drawn_by(scan, folder / "seg" / "a.dcm", "EXPERT", 40, time="080000")
    drawn_by(scan, folder / "seg" / "b.dcm", "NOVICE", 50, time="090000")
    (patient,) = pair_exams(exams_in(folder), tmp_path / "one").cohort
    assert np.count_nonzero(manual(tmp_path / "one", patient.id).array) == 20 * 30 * 6  # the last
    (folder / "readers.tsv").write_text("name\trole\nexpert\tneuroradiologist\nNOVICE\treader\n")
    pair_exams(exams_in(folder), tmp_path / "two")
    assert np.count_nonzero(manual(tmp_path / "two", patient.id).array) == 10 * 30 * 6


def test_an_outline_that_comes_later_joins_its_pair(place: tuple[Path, Scan], tmp_path: Path) -> None:
    folder, scan = place
    first = pair_exams(exams_in(folder), tmp_path / "out")
    drawn_by(scan, folder / "seg" / "a.dcm", "DOE^JANE", 50)
    later = pair_exams(exams_in(folder), tmp_path / "out")
    assert later.done_now == 1
    assert [p.id for p in later.cohort] == [p.id for p in first.cohort]
    assert "haematoma" in later.cohort.patients[0].targets


def test_two_readers_of_one_ct_are_compared(place: tuple[Path, Scan], tmp_path: Path) -> None:
    folder, scan = place
    drawn_by(scan, folder / "seg" / "a.dcm", "ONE", 40)
    drawn_by(scan, folder / "seg" / "b.dcm", "TWO", 50)
    (patient,) = pair_exams(exams_in(folder), tmp_path / "out").cohort
    (pair,) = reader_pairs(tmp_path / "out", [patient.id])
    assert (pair.label, pair.dice) == ("ICH", pytest.approx(2 * 10 / 30))
    assert pair.second_ml == pytest.approx(2 * pair.first_ml) or pair.first_ml == pytest.approx(
        2 * pair.second_ml
    )
    assert readers_table([pair]).rows[0][:3] == ("ICH", 1, 1)
    assert reader_pseudonym("ONE") != reader_pseudonym("TWO")


def test_three_readers_of_one_ct_are_one_patient() -> None:
    pairs = [ReaderPair("a", "ICH", dice, 10, 12) for dice in (0.9, 0.8, 0.7)]
    pairs += [ReaderPair("b", "ICH", 0.6, 10, 10), ReaderPair("c", "ICH", 0.4, 10, 11)]
    label, patients, count, overlap, difference = readers_table(pairs).rows[0]
    assert (label, patients, count) == ("ICH", 3, 5)
    assert (str(overlap), str(difference)) == tuple(
        str(mean_interval(values)) for values in ([0.8, 0.6, 0.4], [2.0, 0.0, 1.0])
    )


def test_segments_that_nobody_knows_are_refused_by_name(place: tuple[Path, Scan]) -> None:
    folder, scan = place
    drawn_by(scan, folder / "seg" / "a.dcm", "ONE", 40, name="ventricles")
    with pytest.raises(InputRefused, match="has the segments ventricles; ICH, IVH, PHE"):
        labels_drawn(outlines_in(folder)[0], scan)


def test_roles_are_checked(place: tuple[Path, Scan]) -> None:
    folder, _ = place
    (folder / "readers.tsv").write_text("name\trole\nONE\twizard\n")
    with pytest.raises(InputRefused, match="role 'wizard' is unknown"):
        outlines_in(folder)
    (folder / "readers.tsv").write_text("who\nONE\n")
    with pytest.raises(InputRefused, match="needs the columns name and role"):
        outlines_in(folder)
