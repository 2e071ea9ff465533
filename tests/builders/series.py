"""Build DICOM series with every quirk that hospitals send, each as a parameter."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID

from ichnos.formats.dicom.write import Plane, SeriesHeader, series_datasets, stack_affines

Field = Callable[[np.ndarray], np.ndarray]  # RAS mm (..., 3) -> HU (...)

# How four vendors fill the same attributes. The sign of GantryDetectorTilt for one and the same geometry
# differs among them.
VENDORS: dict[str, dict[str, Any]] = {
    "ge": {
        "manufacturer": "GE MEDICAL SYSTEMS",
        "kernel": "STANDARD",
        "signed": True,
        "bits_stored": 16,
        "intercept": -1024.0,
    },
    "siemens": {
        "manufacturer": "SIEMENS",
        "kernel": "H31s",
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SEQ"),
    },
    "philips": {"manufacturer": "Philips", "kernel": "UB"},
    "canon": {
        "manufacturer": "TOSHIBA",
        "kernel": "FC21",
        "signed": True,
        "bits_stored": 13,
        "intercept": 0.0,
    },
}
_TILT_SIGN = {"ge": 1.0, "siemens": -1.0, "philips": 1.0, "canon": -1.0}


@dataclass(frozen=True)
class Quirks:
    """What makes a series awkward; the default is a plain one."""

    axes: str = "LPS"  # where columns, rows and slices run to
    tilt_deg: float = 0.0
    oblique_deg: float = 0.0  # turn of the whole stack about the first and then the third axis
    steps_mm: Sequence[float] = (5.0,) * 27
    missing: Sequence[int] = ()  # slices (feet to head) that are not written
    duplicated: Sequence[int] = ()  # slices written twice with the same SOPInstanceUID
    repeated: int = 1  # images at each position, as of several acquisitions; the later ones hold HU + 1000
    order: str = "feet first"  # or "head first", "shuffled": order of InstanceNumber and of file names
    vendor: str = "siemens"
    tilt_tag_sign: float = 1.0
    pixel_mm: float | tuple[float, float] = 1.0
    shape: tuple[int, int] = (96, 96)  # columns, rows
    padding_hu: float | None = None  # value outside the circle of reconstruction
    padding_attribute: bool = False
    monochrome1: bool = False
    syntax: str = uid.ExplicitVRLittleEndian
    pixel_representation_wrong: bool = False  # the header's sign contradicts the JPEG 2000 stream's
    high_bits: bool = False  # junk in the bits above BitsStored
    no_preamble: bool = False
    enhanced: bool = False  # one multi-frame file
    header: dict[str, Any] = field(default_factory=dict)  # fields of SeriesHeader
    tags: dict[str, Any] = field(default_factory=dict)  # DICOM keyword -> value, in every file; None deletes


def affines_of(quirks: Quirks, centre_mm: Sequence[float] = (0.0, 0.0, 0.0)) -> list[np.ndarray]:
    """Return where the slices lie, in the order of `axes`, missing ones left out."""
    stack = stack_affines(
        centre_mm=(0, 0, 0),
        shape=quirks.shape,
        pixel_mm=quirks.pixel_mm,
        steps_mm=quirks.steps_mm,
        tilt_deg=quirks.tilt_deg,
        axes=quirks.axes,
    )
    turn = np.eye(4)
    turn[:3, :3] = _turn(0, quirks.oblique_deg) @ _turn(2, quirks.oblique_deg / 2)
    turn[:3, 3] = centre_mm
    return [turn @ affine for k, affine in enumerate(stack) if k not in set(quirks.missing)]


def _turn(axis: int, degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    i, j = [a for a in range(3) if a != axis]
    matrix = np.eye(3)
    matrix[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return matrix


def planes_of(hu_at: Field, affines: Sequence[np.ndarray], shape: tuple[int, int]) -> list[Plane]:
    """Sample a field of HU on every slice."""
    column, row = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]))  # (rows, columns)
    index = np.stack([column, row, np.zeros_like(row), np.ones_like(row)], axis=-1)
    return [Plane(hu_at((index @ affine.T)[..., :3]), affine) for affine in affines]


def ball(
    radius_mm: float,
    centre_mm: Sequence[float] = (0.0, 0.0, 0.0),
    *,
    inside_hu: float = 60.0,
    outside_hu: float = -1000.0,
) -> Field:
    """A ball, for tests of place and size."""
    return lambda mm: np.where(
        ((mm - np.asarray(centre_mm)) ** 2).sum(axis=-1) <= radius_mm**2, inside_hu, outside_hu
    )


def header_of(quirks: Quirks) -> SeriesHeader:
    """Return the header that a vendor would write."""
    tag = _TILT_SIGN[quirks.vendor] * quirks.tilt_tag_sign * quirks.tilt_deg
    return replace(SeriesHeader(), **{"tilt_deg": tag, **VENDORS[quirks.vendor], **quirks.header})


def build_series(
    hu_at: Field, folder: Path, quirks: Quirks | None = None, centre_mm: Sequence[float] = (0.0, 0.0, 0.0)
) -> list[Path]:
    """Write a series with its quirks into a folder (made if need be); return the files."""
    quirks = quirks or Quirks()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    prefix = f"S{header_of(quirks).series_number:03d}I"
    datasets = datasets_of(hu_at, quirks, centre_mm)
    if quirks.enhanced:
        datasets = [enhanced(datasets)]
    for number, data in enumerate(datasets, start=1):
        path = folder / f"{prefix}{number:04d}.dcm"
        path.write_bytes(encoded(data, quirks))
        paths.append(path)
    for k in quirks.duplicated:
        path = folder / f"{prefix}{k + 1:04d}_copy.dcm"
        path.write_bytes(paths[k].read_bytes())
        paths.append(path)
    return paths


def datasets_of(hu_at: Field, quirks: Quirks, centre_mm: Sequence[float] = (0.0, 0.0, 0.0)) -> list[Any]:
    """Return the datasets in the order of their InstanceNumber, before compression."""
    header = header_of(quirks)
    planes = planes_of(_padded(hu_at, quirks, centre_mm), affines_of(quirks, centre_mm), quirks.shape)
    datasets = series_datasets(planes, header=header)
    for again in range(1, quirks.repeated):
        more = series_datasets(
            [Plane(p.hu + 1000, p.affine) for p in planes],
            header=replace(header, seed=f"{header.seed}+{again}"),
        )
        for data in more:
            data.AcquisitionNumber, data.SeriesInstanceUID = again + 1, header.series_uid
            data.StudyInstanceUID, data.FrameOfReferenceUID = (
                datasets[0].StudyInstanceUID,
                datasets[0].FrameOfReferenceUID,
            )
        datasets += more
    order = np.arange(len(datasets))
    if quirks.order == "head first":
        order = order[::-1]
    elif quirks.order == "shuffled":
        order = np.random.default_rng(0).permutation(order)
    datasets = [datasets[k] for k in order]
    for number, data in enumerate(datasets, start=1):
        data.InstanceNumber = number
        _decorate(data, quirks)
    return datasets


def _padded(hu_at: Field, quirks: Quirks, centre_mm: Sequence[float]) -> Field:
    padding_hu = quirks.padding_hu
    if padding_hu is None:
        return hu_at
    size = np.array(quirks.shape) * np.broadcast_to(quirks.pixel_mm, 2)

    def padded(mm: np.ndarray) -> np.ndarray:
        rows, columns = mm.shape[:2]
        y, x = np.ogrid[:rows, :columns]
        outside = ((x + 0.5) / columns - 0.5) ** 2 + ((y + 0.5) / rows - 0.5) ** 2 > 0.25
        return np.where(outside, padding_hu, hu_at(mm))

    assert size.min() > 0
    return padded


def _decorate(data: Any, quirks: Quirks) -> None:
    if quirks.padding_attribute and quirks.padding_hu is not None:
        stored = round((quirks.padding_hu - float(data.RescaleIntercept)) / float(data.RescaleSlope))
        data.add_new("PixelPaddingValue", "SS" if data.PixelRepresentation else "US", stored)
    if quirks.monochrome1:
        data.PhotometricInterpretation = "MONOCHROME1"
    if quirks.high_bits:
        junk = np.frombuffer(data.PixelData, "<u2") | np.uint16(0xFFFF << data.BitsStored & 0xFFFF)
        data.PixelData = junk.tobytes()
    for keyword, value in quirks.tags.items():
        if value is None:
            if keyword in data:
                delattr(data, keyword)
        else:
            setattr(data, keyword, value)


# ---- how the file is written
# ------------------------------------------------------------------------------------------


def encoded(data: Any, quirks: Quirks) -> bytes:
    """Return the bytes of a file in the quirks' transfer syntax."""
    syntax = uid.UID(quirks.syntax)
    if syntax.is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian:
        _compress(data, syntax, quirks)
    elif syntax == uid.ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data["PixelData"].VR = "OW"
    data.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    if quirks.no_preamble:
        bare = Dataset()
        bare.update(data)
        bare.save_as(buffer, implicit_vr=True, little_endian=True)
    else:
        pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _compress(data: Any, syntax: Any, quirks: Quirks) -> None:
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        _jpeg_lossless(data, syntax)
        return
    frames = int(data.get("NumberOfFrames", 1))
    kind = "<i2" if data.PixelRepresentation else "<u2"
    pixels = np.frombuffer(data.PixelData, kind).reshape(frames, data.Rows, data.Columns)
    if quirks.pixel_representation_wrong:
        streams = [
            _stream(frame.astype("<u2") & np.uint16((1 << data.BitsStored) - 1), syntax, data.BitsStored)
            for frame in pixels
        ]
        data.PixelRepresentation = 1
    else:
        streams = [_stream(frame, syntax, data.BitsStored) for frame in pixels]
    data.PixelData = encapsulate(streams)
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True


def _stream(frame: np.ndarray, syntax: Any, bits_stored: int) -> bytes:
    """Return one compressed frame."""
    if "High-Throughput" in syntax.name:
        import imagecodecs

        return bytes(imagecodecs.htj2k_encode(np.ascontiguousarray(frame), reversible=True))
    from pydicom.pixels.encoders.base import get_encoder

    options = {
        "rows": frame.shape[0],
        "columns": frame.shape[1],
        "samples_per_pixel": 1,
        "bits_allocated": 16,
        "bits_stored": bits_stored,
        "pixel_representation": int(frame.dtype.kind == "i"),
        "photometric_interpretation": "MONOCHROME2",
        "number_of_frames": 1,
    }
    return bytes(get_encoder(syntax).encode(np.ascontiguousarray(frame), **options))


def _jpeg_lossless(data: Any, syntax: Any) -> None:
    """Replace the pixels by GDCM's lossless JPEG stream (one frame), by way of a file, as its bindings
    want it.
    """
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        plain, packed = str(Path(folder) / "plain.dcm"), str(Path(folder) / "packed.dcm")
        data.save_as(plain, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(plain)
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        kind = (
            gdcm.TransferSyntax.JPEGLosslessProcess14_1
            if syntax == uid.JPEGLosslessSV1
            else gdcm.TransferSyntax.JPEGLosslessProcess14
        )
        change.SetTransferSyntax(gdcm.TransferSyntax(kind))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(packed)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        element = pydicom.dcmread(packed)["PixelData"]
    data["PixelData"] = element


def enhanced(datasets: list[Any]) -> Any:
    """Return one enhanced multi-frame CT that holds all the given single frames."""
    data = Dataset()
    data.update(datasets[0])
    data.file_meta = datasets[0].file_meta
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.1")
    per_frame = []
    for number, single in enumerate(datasets, start=1):
        per_frame.append(_frame_groups(single, number))
    shared = Dataset()
    shared.PixelMeasuresSequence = DicomSequence([_pick(datasets[0], "PixelSpacing", "SliceThickness")])
    data.SharedFunctionalGroupsSequence = DicomSequence([shared])
    data.PerFrameFunctionalGroupsSequence = DicomSequence(per_frame)
    data.NumberOfFrames = len(datasets)
    data.PixelData = b"".join(single.PixelData for single in datasets)
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "RescaleSlope",
        "RescaleIntercept",
        "RescaleType",
        "SliceLocation",
    ):
        if keyword in data:
            delattr(data, keyword)
    return data


def _frame_groups(single: Any, number: int) -> Any:
    groups = Dataset()
    groups.PlanePositionSequence = DicomSequence([_pick(single, "ImagePositionPatient")])
    groups.PlaneOrientationSequence = DicomSequence([_pick(single, "ImageOrientationPatient")])
    groups.PixelValueTransformationSequence = DicomSequence(
        [_pick(single, "RescaleSlope", "RescaleIntercept", "RescaleType")]
    )
    content = Dataset()
    content.InStackPositionNumber, content.StackID = number, "1"
    groups.FrameContentSequence = DicomSequence([content])
    return groups


def _pick(data: Any, *keywords: str) -> Any:
    part = Dataset()
    for keyword in keywords:
        setattr(part, keyword, data[keyword].value)
    return part
