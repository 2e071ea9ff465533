"""Outlines as a viewer of somebody else saves them: a SEG of a block on a made scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from ichnos.formats.dicom_seg import write_seg
from ichnos.scan import Scan
from ichnos.volume import Volume


def block(scan: Scan, stop: int) -> Volume:
    """Return a mask of a block that grows with `stop`."""
    mask = np.zeros(scan.volume.shape, np.uint8)
    mask[30:stop, 30:60, 8:14] = 1
    return scan.volume.with_array(mask)


def drawn_by(
    scan: Scan, file: Path, author: str, stop: int, *, name: str = "ICH", time: str = "120000"
) -> Path:
    """Write a SEG as a viewer of somebody else saves it."""
    write_seg(scan, {name: block(scan, stop)}, file)
    data = pydicom.dcmread(file)
    data.Manufacturer, data.ContentCreatorName = "A viewer", author
    data.ContentDate, data.ContentTime = "20260303", time
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(
        entropy_srcs=[author, time]
    )
    data.save_as(file, enforce_file_format=True)
    return file
