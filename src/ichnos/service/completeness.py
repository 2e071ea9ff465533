"""Tell early that a study is complete: the archive's count is reached, or a series is whole in itself."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy import select

from ichnos.service.node import Node
from ichnos.service.remote.archive import ArchiveProblem, images_of_study
from ichnos.service.store import studies
from ichnos.service.store.studies import READ_MODALITY
from ichnos.service.store.tables import StudyRow

HEAD_MM = 110.0  # a series that reads a head covers at least this much of it along its slices' normal
LEAST_SLICES = 8  # fewer are no head CT (quality: "too few slices")
_EVEN = 0.05  # share of a step by which steps may differ in a series without a gap
_TAGS = [
    "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames",
    "NumberOfSeriesRelatedInstances", "ImagesInAcquisition",
]  # fmt: skip
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Completeness:
    """Looks at studies that have been quiet for a moment; each number of images is looked at once."""

    node: Node
    _seen: dict[int, int] = field(default_factory=dict)  # study -> images when it was looked at

    def complete_studies(self) -> dict[int, str]:
        """Return studies that need no longer wait, with the reason."""
        assembly, now = self.node.settings.assembly, self.node.clock()
        if not assembly.early:
            return {}
        with self.node.database.snapshot() as session:
            quiet = select(StudyRow).where(
                StudyRow.state == "received", StudyRow.last_image_at <= now - assembly.early_quiet_s
            )
            rows = list(session.execute(quiet).scalars())
            fresh = {
                row: studies.files_of(session, row) for row in rows if self._seen.get(row.id) != row.images
            }
        complete = {}
        for row, images in fresh.items():
            self._seen[row.id] = row.images
            files = [self.node.settings.home / one.path for one in images if one.modality == READ_MODALITY]
            if why := self._archive_says(row.uid, len(images)) or _headers_say(row.id, files):
                complete[row.id] = why
        return complete

    def _archive_says(self, study_uid: str, images: int) -> str:
        archive = self.node.settings.archive
        if not archive.answers:
            return ""
        try:
            counted = images_of_study(archive, study_uid, self.node.settings.receiver.ae_title)
        except ArchiveProblem as problem:
            _log.warning("the archive was not asked for its count: %s", problem)
            return ""
        return "all images of the archive have arrived" if counted is not None and images >= counted else ""


def _headers_say(study_id: int, files: Sequence[Path]) -> str:
    try:
        return why_whole(_headers(files))
    except Exception as error:  # a header may be malformed in any way; the study then waits like any other
        _log.warning("study %d: a header is malformed (%s); it waits", study_id, type(error).__name__)
        return ""


def why_whole(headers: Sequence[Dataset]) -> str:
    """Return why a study is complete by its headers; "" where that cannot be told.

    A series is whole when as many images as it announces are there, or, where it announces nothing, when its
    slices lie at even steps over the height of a head.
    """
    series: dict[str, list[Dataset]] = defaultdict(list)
    for header in headers:
        series[str(header.get("SeriesInstanceUID", ""))].append(header)
    if not series or not all(_is_whole(members) for members in series.values()):
        return ""
    return "every series is whole"


def _is_whole(members: Sequence[Dataset]) -> bool:
    announced = _announced(members)
    if announced:
        return len(members) >= announced
    if len(members) == 1 and int(members[0].get("NumberOfFrames") or 1) >= LEAST_SLICES:
        return True  # an enhanced image is complete in itself
    heights = _heights(members)
    if len(heights) < LEAST_SLICES:
        return False
    steps = np.diff(heights)
    even = bool(np.all(np.abs(steps - np.median(steps)) <= _EVEN * np.median(steps)))
    return even and float(heights[-1] - heights[0] + np.median(steps)) >= HEAD_MM


def _announced(members: Sequence[Dataset]) -> int:
    for keyword in ("NumberOfSeriesRelatedInstances", "ImagesInAcquisition"):
        counts = [int(member.get(keyword) or 0) for member in members]
        if max(counts, default=0) > 0:
            return max(counts)
    return 0


def _heights(members: Sequence[Dataset]) -> np.ndarray:
    """Return where slices lie along their normal, mm, in order; nothing where a header does not tell."""
    try:
        turn = np.array(members[0].ImageOrientationPatient, np.float64)
        places = np.array([member.ImagePositionPatient for member in members], np.float64)
    except (AttributeError, ValueError, TypeError):
        return np.array([])
    return np.unique(np.round(places @ np.cross(turn[:3], turn[3:]), 3))


def _headers(files: Sequence[Path]) -> list[Dataset]:
    headers: list[Dataset] = []
    for file in files:
        try:
            headers.append(dcmread(file, stop_before_pixels=True, specific_tags=_TAGS))
        except (OSError, InvalidDicomError, ValueError, EOFError):
            return []  # the reader will say what is wrong with it
    return headers
