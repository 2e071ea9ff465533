"""DICOM CT in and out: any folder from a hospital becomes one head CT, correctly placed, and masks go back
onto its slices.
"""

from ichnos.formats.dicom.geometry import mask_from_source, mask_on_source
from ichnos.formats.dicom.listing import DatedSeries, series_in
from ichnos.formats.dicom.load import DicomStudy, Inspection, inspect_dicom, open_dicom, studies_in
from ichnos.formats.dicom.series import SeriesSummary
from ichnos.formats.dicom.write import Plane, SeriesHeader, cut, stack_affines, write_series

__all__ = [
    "DatedSeries",
    "DicomStudy",
    "Inspection",
    "Plane",
    "SeriesHeader",
    "SeriesSummary",
    "cut",
    "inspect_dicom",
    "mask_from_source",
    "mask_on_source",
    "open_dicom",
    "series_in",
    "stack_affines",
    "studies_in",
    "write_series",
]
