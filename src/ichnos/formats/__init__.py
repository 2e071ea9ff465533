"""The doors: files come in as Scan or Volume, and go out again. Nothing else knows a file format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ichnos.errors import UsageError
from ichnos.formats.limits import DEFAULT_LIMITS, Limits
from ichnos.scan import Scan

if TYPE_CHECKING:
    from ichnos.formats.dicom import Inspection, SeriesSummary


def open_scan(
    path: str | Path,
    *,
    series: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Scan:
    """Open the head CT in a DICOM file, folder, zip or DICOMDIR, or in a NIfTI file.

    `series` names a SeriesInstanceUID and overrides the choice; `progress` gets (files done, files in all).
    """
    if not isinstance(path, str | Path):
        raise UsageError(
            f"open takes the path of a DICOM file, folder or archive or of a NIfTI file, not a"
            f" {type(path).__name__}; an array becomes a scan by Scan(Volume(array, affine))"
        )
    from ichnos.formats import nifti

    if nifti.is_nifti(path) and not Path(path).is_dir():
        if series is not None:
            raise UsageError(f"{path} is NIfTI and has no series to choose from; leave --series out")
        return nifti.open_nifti(path, limits=limits)
    from ichnos.formats.dicom import open_dicom

    return open_dicom(path, series=series, progress=progress, limits=limits)


def inspect_path(
    path: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Inspection:
    """List what lies in a place, best first, and which is the head CT; a NIfTI file is one series."""
    from ichnos.formats import nifti
    from ichnos.formats.dicom import Inspection, inspect_dicom

    if not nifti.is_nifti(path) or Path(path).is_dir():
        return inspect_dicom(path, progress=progress, limits=limits)

    def opened(series: str | None) -> Scan:
        return open_scan(path, series=series, limits=limits)

    summary = _only_image(nifti.open_nifti(path, limits=limits), Path(path).name)
    return Inspection(Path(path), (summary,), summary.uid, 1, 1, {}, (), opened)


def _only_image(scan: Scan, name: str) -> SeriesSummary:
    """Return the image of a NIfTI file as the series that it is."""
    from ichnos.formats.dicom import SeriesSummary

    columns, rows, slices = scan.volume.shape
    x_mm, y_mm, z_mm = scan.volume.spacing_mm
    acquisition = scan.acquisition
    return SeriesSummary(
        uid=name,
        number=None,
        description=acquisition.series_description or "",
        modality="CT",
        images=slices,
        shape=(columns, rows),
        pixel_mm=(x_mm, y_mm),
        steps_mm=acquisition.slice_step_mm,
        length_mm=z_mm * (slices - 1),
        tilt_deg=acquisition.tilt_deg,
        kernel=acquisition.kernel or "",
        usable=True,
        score=0.0,
        reasons=("a NIfTI file: the only image in it",),
    )
