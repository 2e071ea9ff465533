"""Every series of a place is listed with patient and time; an MRI opens as it was stored."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from builders.head import head_hu
from builders.series import Quirks, ball, build_series
from ichnos.audit.exams import exams_of_series
from ichnos.formats.dicom import DatedSeries, open_dicom, series_in

TAGS = {"Modality": "MR"}


def mri(folder: Path, **changes: object) -> DatedSeries:
    header = {"intercept": 0.0, "description": "FLAIR"}
    quirks = Quirks(steps_mm=(5.0,) * 9, header=header, tags=TAGS, **changes)  # type: ignore[arg-type]
    build_series(ball(30, inside_hu=200.0, outside_hu=0.0), folder, quirks)
    (series,) = series_in(folder)
    return series


def test_a_ct_says_who_when_and_that_it_may_be_read(tmp_path: Path) -> None:
    build_series(head_hu(), tmp_path / "a", Quirks(header={"date": "20260301", "time": "143005"}))
    (series,) = series_in(tmp_path)
    assert (series.patient, series.modality, series.usable) == ("MADE", "CT", True)
    assert series.taken == datetime(2026, 3, 1, 14, 30, 5)
    direct = open_dicom(tmp_path / "a")
    assert np.array_equal(series.open_ct().hu, direct.hu)


def test_an_mri_opens_with_its_values_and_no_negative_ones(tmp_path: Path) -> None:
    volume = mri(tmp_path / "a").open_mri()
    assert volume.array.max() == 200
    assert volume.array.min() == 0
    inside = float((volume.array > 100).sum()) * volume.voxel_ml
    assert inside == pytest.approx(4 / 3 * np.pi * 3.0**3, rel=0.1)  # a ball of 3 cm


def test_of_a_repeated_acquisition_the_first_is_taken(tmp_path: Path) -> None:
    volume = mri(tmp_path / "a", repeated=2).open_mri()  # the second holds 1,000 more
    assert volume.array.max() == 200
    assert volume.shape[2] == 10


@pytest.mark.parametrize(
    ("tags", "taken"),
    [
        ({"AcquisitionTime": None, "SeriesTime": None, "StudyTime": None}, datetime(2026, 3, 1)),
        ({"AcquisitionDate": None, "SeriesDate": "20260302"}, datetime(2026, 3, 2, 12)),
        ({"AcquisitionDate": None, "SeriesDate": None, "StudyDate": None}, None),
    ],
)
def test_the_time_comes_from_what_is_there(tmp_path: Path, tags: dict, taken: datetime | None) -> None:
    build_series(head_hu(), tmp_path / "a", Quirks(header={"date": "20260301", "time": "120000"}, tags=tags))
    (series,) = series_in(tmp_path)
    assert series.taken == taken
    found = exams_of_series([series])
    assert len(found.exams) == int(taken is not None)
    assert bool(found.left_out) == (taken is None)


def test_a_series_is_named_by_a_hash_alone(tmp_path: Path) -> None:
    series = mri(tmp_path / "a")
    assert len(series.token) == 12
    assert series.uid not in series.token
    found = exams_of_series([series])
    assert found.exams[0].exam == "flair"
    assert found.exams[0].token == series.token
