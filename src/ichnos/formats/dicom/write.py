"""Write CT slices as DICOM: planes cut through a volume, tilted and unevenly spaced if wanted, each into
one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.errors import InputRefused
from ichnos.volume import Array, Floats, Volume

_DIRECTION_RAS = {
    "R": (1, 0, 0),
    "L": (-1, 0, 0),
    "A": (0, 1, 0),
    "P": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}
_LPS = np.array([-1.0, -1.0, 1.0])
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice and where it lies."""

    hu: Array  # (rows, columns)
    affine: (
        Floats  # (4, 4): (column, row, 0) -> RAS mm of the pixel's centre; third column is the unit normal
    )


@dataclass(frozen=True)
class SeriesHeader:
    """What the files of a series say beside their pixels. UIDs follow from `seed`, so that the same call
    writes the same files.
    """

    seed: str = "ichnos"
    patient_id: str = "MADE"
    patient_name: str = "Made^Head"
    birth_date: str = ""  # YYYYMMDD
    sex: str = "O"
    age_years: int | None = None
    study_seed: str | None = None  # series with the same study_seed share a study; None: `seed`
    series_number: int = 2
    description: str = "HEAD 5.0 STANDARD"
    study_description: str = "CT HEAD"
    date: str = "20250101"  # YYYYMMDD
    time: str = "120000"  # HHMMSS
    manufacturer: str = "ichnos"
    model_name: str = "made"
    kernel: str = "STANDARD"
    tube_kv: float = 120.0
    body_part: str = "HEAD"
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    thickness_mm: float | None = None  # None: each slice's distance to its nearer neighbour
    tilt_deg: float | None = None  # what GantryDetectorTilt says; nothing reads geometry from it
    slope: float = 1.0
    intercept: float = -1024.0
    bits_stored: int = 12
    signed: bool = False

    def uid(self, *parts: object) -> str:
        """Return the UID that belongs to this header and these parts."""
        from pydicom.uid import generate_uid

        return str(generate_uid(entropy_srcs=["ichnos", *[str(part) for part in parts]]))

    @property
    def study_uid(self) -> str:
        """Return the StudyInstanceUID."""
        return self.uid(self.study_seed or self.seed, "study")

    @property
    def series_uid(self) -> str:
        """Return the SeriesInstanceUID."""
        return self.uid(self.seed, "series", self.series_number)


def stack_affines(
    *,
    centre_mm: Sequence[float],
    shape: tuple[int, int],
    pixel_mm: float | tuple[float, float],
    steps_mm: Sequence[float],
    tilt_deg: float = 0.0,
    axes: str = "LPS",
) -> tuple[Floats, ...]:
    """Place `len(steps_mm) + 1` slices around a centre (RAS mm).

    `shape` is (columns, rows); `axes` names where columns, rows and slices run to. `steps_mm` are distances
    along the slices' normal. `tilt_deg` tips the top of the normal against the run of the rows.

    >>> stack = stack_affines(centre_mm=(0, 0, 0), shape=(3, 3), pixel_mm=1.0, steps_mm=[5.0, 5.0])
    >>> [a[:3, 3].tolist() for a in stack]
    [[1.0, 1.0, -5.0], [1.0, 1.0, 0.0], [1.0, 1.0, 5.0]]
    """
    column, row, travel = (np.array(_DIRECTION_RAS[letter], np.float64) for letter in axes.upper())
    row, normal = _tilted(row, travel, np.deg2rad(tilt_deg))
    du, dv = np.broadcast_to(np.asarray(pixel_mm, np.float64), 2)
    along = np.concatenate([[0.0], np.cumsum(steps_mm)]) / np.cos(np.deg2rad(tilt_deg))
    along -= along[-1] / 2
    half_columns, half_rows = (shape[0] - 1) / 2 * du * column, (shape[1] - 1) / 2 * dv * row
    corner = np.asarray(centre_mm, np.float64) - half_columns - half_rows
    return tuple(_affine(column * du, row * dv, normal, corner + step * travel) for step in along)


def _tilted(row: Floats, travel: Floats, angle: float) -> tuple[Floats, Floats]:
    """Turn a slice's rows and normal as a gantry does; the table still moves along its own axis, so the stack
    is sheared.
    """
    return np.cos(angle) * row + np.sin(angle) * travel, np.cos(angle) * travel - np.sin(angle) * row


def _affine(column: Floats, row: Floats, normal: Floats, origin: Floats) -> Floats:
    affine = np.eye(4)
    affine[:3] = np.stack([column, row, normal, origin], axis=1)
    return affine


def cut(
    volume: Volume,
    affines: Sequence[Floats],
    *,
    shape: tuple[int, int],
    thickness_mm: float = 0.0,
    air_hu: float = -1000.0,
) -> list[Plane]:
    """Cut planes of `shape` (columns, rows) through a volume in HU; a thick slice is the mean over its
    thickness.
    """
    layers = max(1, int(np.ceil(thickness_mm / min(volume.spacing_mm))))
    planes = []
    for affine in affines:
        grid_affine = np.array(affine)
        grid_affine[:3, 2] *= max(thickness_mm, 1e-3) / layers
        grid_affine[:3, 3] -= grid_affine[:3, 2] * (layers - 1) / 2
        grid = Volume(np.broadcast_to(np.uint8(0), (*shape, layers)), grid_affine)
        slab = volume.astype(np.float32).on_grid(grid, fill=air_hu).array
        planes.append(Plane(slab.mean(axis=2).T, affine))
    return planes


def write_series(
    planes: Sequence[Plane], folder: str | Path, *, header: SeriesHeader | None = None
) -> list[Path]:
    """Write each plane as one uncompressed CT image, IM0001.dcm and on; the folder must be new or empty."""
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputRefused(f"{folder} is not empty; give a new folder for the DICOM series")
    datasets = series_datasets(planes, header=header or SeriesHeader())
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets, start=1):
        path = folder / f"IM{number:04d}.dcm"
        partial = path.with_suffix(".partial")
        dataset.save_as(partial, enforce_file_format=True)
        paths.append(partial.rename(path))
    return paths


def series_datasets(planes: Sequence[Plane], *, header: SeriesHeader) -> list[Any]:
    """Return one pydicom dataset per plane, in the given order."""
    origins = np.array([plane.affine[:3, 3] for plane in planes])
    steps = np.abs(np.diff(origins @ planes[0].affine[:3, 2])) if len(planes) > 1 else np.array([5.0])
    nearest = np.minimum(np.append(steps, np.inf), np.insert(steps, 0, np.inf))[: len(planes)]
    return [
        _dataset(plane, header, k + 1, header.thickness_mm or float(nearest[k]))
        for k, plane in enumerate(planes)
    ]


def _dataset(plane: Plane, header: SeriesHeader, number: int, thickness_mm: float) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID(CT_IMAGE_STORAGE)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID(
        header.uid(header.seed, "image", header.series_number, number)
    )
    _say_who(data, header)
    _say_how(data, header, thickness_mm)
    data.InstanceNumber = number
    _say_where(data, plane.affine)
    _put_pixels(data, plane.hu, header)
    return data


def _say_who(data: Any, header: SeriesHeader) -> None:
    data.SpecificCharacterSet = "ISO_IR 192"
    data.PatientName, data.PatientID = header.patient_name, header.patient_id
    data.PatientBirthDate, data.PatientSex = header.birth_date, header.sex
    if header.age_years is not None:
        data.PatientAge = f"{header.age_years:03d}Y"
    data.StudyInstanceUID, data.SeriesInstanceUID = header.study_uid, header.series_uid
    data.FrameOfReferenceUID = header.uid(header.study_seed or header.seed, "frame of reference")
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = header.date
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = header.time
    data.AccessionNumber = data.ReferringPhysicianName = data.PositionReferenceIndicator = ""
    data.StudyID = "1"
    data.StudyDescription, data.SeriesDescription = header.study_description, header.description
    data.SeriesNumber, data.AcquisitionNumber = header.series_number, 1


def _say_how(data: Any, header: SeriesHeader, thickness_mm: float) -> None:
    data.Modality, data.ImageType = "CT", list(header.image_type)
    data.Manufacturer, data.ManufacturerModelName = header.manufacturer, header.model_name
    data.ConvolutionKernel, data.KVP = header.kernel, header.tube_kv
    data.BodyPartExamined, data.PatientPosition = header.body_part, "HFS"
    data.SliceThickness = _ds(thickness_mm)
    if header.tilt_deg is not None:
        data.GantryDetectorTilt = _ds(header.tilt_deg)


def _say_where(data: Any, affine: Floats) -> None:
    column, row = affine[:3, 0], affine[:3, 1]
    column_mm, row_mm = float(np.linalg.norm(column)), float(np.linalg.norm(row))
    data.ImagePositionPatient = [_ds(v) for v in affine[:3, 3] * _LPS]
    data.ImageOrientationPatient = [
        _ds(v) for v in np.concatenate([column / column_mm * _LPS, row / row_mm * _LPS])
    ]
    data.PixelSpacing = [_ds(row_mm), _ds(column_mm)]  # distance between rows, then between columns
    data.SliceLocation = _ds(float(affine[:3, 3] @ affine[:3, 2]))


def _put_pixels(data: Any, hu: Array, header: SeriesHeader) -> None:
    low = -(1 << (header.bits_stored - 1)) if header.signed else 0
    stored = np.clip(
        np.round((hu - header.intercept) / header.slope), low, low + (1 << header.bits_stored) - 1
    )
    data.Rows, data.Columns = hu.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, header.bits_stored, header.bits_stored - 1
    data.PixelRepresentation = int(header.signed)
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = (
        _ds(header.slope),
        _ds(header.intercept),
        "HU",
    )
    data.WindowCenter, data.WindowWidth = "40", "80"
    data.PixelData = np.ascontiguousarray(stored.astype("<i2" if header.signed else "<u2")).tobytes()


def _ds(value: float) -> str:
    from pydicom.valuerep import format_number_as_ds

    # tiny rests of arithmetic would not fit the 16 characters
    return format_number_as_ds(round(float(value), 9) + 0.0)
