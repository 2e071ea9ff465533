"""What leaves the node beside SEG and SR, for viewers that show neither: a picture and the report as PDF.

`picture.dcm` is a Secondary Capture, `report.dcm` an Encapsulated PDF; a destination asks for them by name.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from ichnos.formats.dicom_source import derived_uid, source_headers, stamp, tolerant
from ichnos.reading import Reading
from ichnos.reading.save import SEG, SR
from ichnos.report.pictures import slice_pictures
from ichnos.service.settings import Extra

PICTURE, PDF = "picture.dcm", "report.dcm"
LEAVING = (
    str(SegmentationStorage), str(Comprehensive3DSRStorage), str(SecondaryCaptureImageStorage),
    str(EncapsulatedPDFStorage), str(CTImageStorage),
)  # fmt: skip
_FILE_OF: dict[Extra, tuple[str, ...]] = {
    "picture": (PICTURE,),
    "pdf": (PDF,),
    "rectified": ("rectified/*.dcm",),
}
_log = logging.getLogger(__name__)
_NOTICE = "Research use only; not for diagnosis. Models trained on simulated patients."
_SERIES_NUMBERS = {PICTURE: 9903, PDF: 9904}  # beside those of SEG and SR, above what scanners use
_COLUMNS, _TILES, _MARGIN, _LINE = 4, 12, 12, 22


def files_for(folder: Path, extras: Collection[Extra]) -> list[Path]:
    """Return what a destination gets of a reading: SEG and SR always, the rest if it asks for it."""
    names = [SEG, SR, *(pattern for extra in sorted(extras) for pattern in _FILE_OF[extra])]
    return [file for name in names for file in sorted(folder.glob(name))]


def write_extras(reading: Reading, folder: Path, extras: Collection[Extra]) -> None:
    """Write what destinations ask for beside SEG and SR into the folder of a saved reading.

    What cannot be written is logged; the study is sent without it.
    """
    if reading.scan is None or reading.scan.source is None or reading.masks is None:
        return
    for extra in sorted(extras):
        try:
            _WRITERS[extra](reading, folder)
        except Exception:
            _log.exception("the %s could not be written; the study is sent without it", extra)


def write_picture(reading: Reading, path: Path) -> Path:
    """Write slices with outlines and the findings in words as one Secondary Capture image."""
    from highdicom.sc import SCImage

    assert reading.scan is not None
    header = source_headers(reading.scan)[0]
    pixels = np.asarray(_montage(reading))
    content = (header.SeriesInstanceUID, pixels.tobytes())
    with tolerant():
        image = SCImage.from_ref_dataset(
            header,
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),
            series_instance_uid=derived_uid("picture series", *content),
            sop_instance_uid=derived_uid("picture", *content),
            series_number=_SERIES_NUMBERS[PICTURE],
            instance_number=1,
            manufacturer="ichnos",
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
    # no identity in the pixels; never compressed with loss
    image.BurnedInAnnotation, image.LossyImageCompression, image.BodyPartExamined = "NO", "00", "HEAD"
    stamp(image, header, description="ichnos: slices with outlines")
    image.save_as(path, enforce_file_format=True)
    return path


def _montage(reading: Reading) -> Image.Image:
    assert reading.scan is not None
    masks = reading.masks.named() if reading.masks is not None else {}
    hu = reading.scan.volume.reoriented("RAS")
    drawn = {name: mask.reoriented("RAS") for name, mask in masks.items()}
    tiles = [Image.open(io.BytesIO(p.png)) for p in slice_pictures(hu, drawn, most=_TILES)]
    wide, high = tiles[0].size
    lines = [_NOTICE, *(finding.sentence for finding in reading.record.findings)]
    top = 2 * _MARGIN + _LINE * len(lines)
    rows = -(-len(tiles) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * wide, top + rows * high))
    write, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for k, line in enumerate(lines):
        write.text((_MARGIN, _MARGIN + k * _LINE), line[:200], fill="white", font=font)
    for k, tile in enumerate(tiles):
        sheet.paste(tile, ((k % _COLUMNS) * wide, top + (k // _COLUMNS) * high))
    return sheet


def write_pdf_object(reading: Reading, page: Path, path: Path) -> Path:
    """Print the report and write it as an Encapsulated PDF object (PS3.3 A.45.1)."""
    from ichnos.report.pdf import write_pdf

    assert reading.scan is not None
    printed = path.with_suffix(".pdf")
    content = write_pdf(page, printed).read_bytes()
    printed.unlink()
    header = source_headers(reading.scan)[0]
    encapsulated_pdf(content, header).save_as(path, enforce_file_format=True)
    return path


def encapsulated_pdf(content: bytes, header: Any) -> Dataset:
    """Return a PDF as an object of the study that a header belongs to."""
    pdf = Dataset()
    _copy(header, pdf, _PATIENT_AND_STUDY)
    pdf.SOPClassUID = EncapsulatedPDFStorage
    pdf.SOPInstanceUID = derived_uid("pdf", header.StudyInstanceUID, content)
    pdf.SeriesInstanceUID = derived_uid("pdf series", header.StudyInstanceUID, content)
    pdf.Modality, pdf.ConversionType, pdf.Manufacturer = "DOC", "WSD", "ichnos"
    pdf.SeriesNumber, pdf.InstanceNumber = _SERIES_NUMBERS[PDF], 1
    pdf.AcquisitionDateTime = ""
    pdf.BurnedInAnnotation, pdf.DocumentTitle = "NO", "ichnos report (research use only)"
    pdf.ConceptNameCodeSequence = []
    pdf.MIMETypeOfEncapsulatedDocument = "application/pdf"
    pdf.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    pdf.EncapsulatedDocumentLength = len(content)
    stamp(pdf, header, description="ichnos: report")
    pdf.file_meta = FileMetaDataset()
    pdf.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pdf.file_meta.MediaStorageSOPClassUID = pdf.SOPClassUID
    pdf.file_meta.MediaStorageSOPInstanceUID = pdf.SOPInstanceUID
    return pdf


def _write_rectified(reading: Reading, folder: Path) -> None:
    from ichnos.service.results.rectified import write_rectified

    write_rectified(reading, folder / "rectified")


_WRITERS: dict[Extra, Callable[[Reading, Path], object]] = {
    "picture": lambda reading, folder: write_picture(reading, folder / PICTURE),
    "pdf": lambda reading, folder: write_pdf_object(reading, folder / "report.html", folder / PDF),
    "rectified": _write_rectified,
}
_PATIENT_AND_STUDY = (
    "SpecificCharacterSet", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def _copy(source: Any, target: Dataset, keywords: Sequence[str]) -> None:
    for keyword in keywords:
        if keyword in source:
            setattr(target, keyword, source.get(keyword))
