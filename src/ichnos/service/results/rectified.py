"""A copy of a tilted series on straight slices, with its SEG, for viewers that deform tilted stacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.formats.dicom import open_dicom
from ichnos.formats.dicom.write import Plane, SeriesHeader, series_datasets
from ichnos.formats.dicom_seg import write_seg
from ichnos.formats.dicom_source import derived_uid, source_headers
from ichnos.reading import Reading
from ichnos.scan import Scan
from ichnos.volume import Volume

_STRAIGHT = 1e-3  # sine of the angle below which slices stand upright on their axis
_AIR_HU = -1000.0
_SERIES_NUMBER = 9905
_KEPT = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "SpecificCharacterSet",
)  # fmt: skip


def is_sheared(scan: Scan) -> bool:
    """Tell whether the slices of a scan are offset along the patient, as a tilted gantry leaves them."""
    if scan.source is None or len(scan.source.slices) < 2:
        return False
    first, last = (np.asarray(scan.source.slices[k].affine, np.float64) for k in (0, -1))
    travel, normal = last[:3, 3] - first[:3, 3], first[:3, 2]
    cosine = abs(travel @ normal) / (np.linalg.norm(travel) * np.linalg.norm(normal))
    return bool(1 - cosine**2 > _STRAIGHT**2)


def write_rectified(reading: Reading, folder: Path) -> list[Path]:
    """Write the rectified series and its SEG; nothing for a series that is straight already."""
    scan = reading.scan
    if scan is None or reading.masks is None or not is_sheared(scan):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    volume = scan.volume if scan.volume.is_orthogonal else _straight(scan.volume)
    files = _write_ct(volume.reoriented("LPS"), source_headers(scan)[0], folder)
    copy = open_dicom(folder)
    masks = {
        name: mask.astype(np.uint8).labels_on_grid(copy.volume)
        for name, mask in reading.masks.named().items()
    }
    write_seg(copy, masks, folder / "segmentation.dcm")
    return [*files, folder / "segmentation.dcm"]


def _straight(volume: Volume) -> Volume:
    return volume.on_grid(volume.orthogonal_grid(), fill=_AIR_HU)


def _write_ct(volume: Volume, source: Any, folder: Path) -> Sequence[Path]:
    """Write a derived CT series of the source's study, in the same frame of reference."""
    series = derived_uid("rectified", source.SeriesInstanceUID)
    header = SeriesHeader(
        seed=series,
        series_number=_SERIES_NUMBER,
        description="ichnos: rectified copy",
        study_description=str(source.get("StudyDescription", "")),
        image_type=("DERIVED", "SECONDARY", "AXIAL"),
    )
    files = []
    for number, dataset in enumerate(series_datasets(_planes(volume), header=header), start=1):
        for keyword in _KEPT:
            if keyword in source:
                setattr(dataset, keyword, source.get(keyword))
        dataset.SeriesInstanceUID = series
        files.append(folder / f"IM{number:04d}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def _planes(volume: Volume) -> list[Plane]:
    planes = []
    for z in range(volume.shape[2]):
        affine = np.array(volume.affine, np.float64)
        affine[:3, 2] /= np.linalg.norm(affine[:3, 2])
        affine[:3, 3] = volume.world((0, 0, z))
        planes.append(Plane(np.asarray(volume.array[:, :, z]).T, affine))
    return planes
