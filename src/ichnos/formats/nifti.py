"""NIfTI in and out: any orientation and number type; what does not look like a head CT is refused with the
reason.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ichnos.errors import InputRefused, foreign
from ichnos.files import atomic_file
from ichnos.formats.limits import DEFAULT_LIMITS, MIB, Limits, inflated
from ichnos.formats.plausible import refuse_impossible_size
from ichnos.formats.text import read_json
from ichnos.scan import AIR_HU, FACTS, PADDING_BELOW_HU, Acquisition, Scan, Source, names_agent, upright
from ichnos.volume import Array, Floats, Volume

SUFFIXES = (".nii", ".nii.gz")
_HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
_LARGEST_OFFSET = 1 << 26  # bytes; header extensions beyond 64 MiB are damage
_TRAILING_BYTES = 1 << 20  # after the voxels
_TEMPLATE_CODES = (3, 4)  # Talairach, MNI: the sform of a registered image
_SAME_DIRECTION = 0.9  # cosine between an axis of qform and of sform: 26 degrees
_SAME_PLACE_MM = 1.0
_SINGULAR = 1e-6  # determinant of unit axes
# What nibabel and numpy raise when a header or its voxels are not what they should be.
_DAMAGED = (
    nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
    nibabel.spatialimages.HeaderTypeError,
    nibabel.wrapstruct.WrapStructError,
    OSError,
    EOFError,
    ArithmeticError,
    KeyError,
    TypeError,
    ValueError,
    zlib.error,
)
_MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def is_nifti(path: str | Path) -> bool:
    """Say whether a file's name ends as NIfTI names do.

    >>> is_nifti("scan.nii.gz"), is_nifti("scan.dcm")
    (True, False)
    """
    return str(path).lower().endswith(SUFFIXES)


def load(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> Volume:
    """Load any NIfTI image in RAS mm: number type kept where not scaled, a single fourth frame dropped."""
    path = Path(path)
    image = _opened(path, limits)
    try:
        volume = Volume.from_nibabel(image)
    except _DAMAGED as error:
        raise InputRefused(
            f"{foreign(path)} is damaged or cut short: its voxels cannot be read ({foreign(error)})"
        ) from None
    return Volume(volume.array, _in_mm(path, image, volume.affine))


def load_grid(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> Volume:
    """Return the grid of an image without its voxels (one byte in all, zero)."""
    path = Path(path)
    image = _opened(path, limits, voxels=False)
    x, y, z = (int(n) for n in (*image.shape, 1, 1, 1)[:3])
    return Volume(np.broadcast_to(np.uint8(0), (x, y, z)), _in_mm(path, image, image.affine))


def _in_mm(path: Path, image: Any, affine: Floats) -> Floats:
    unit = image.header.get_xyzt_units()[0]
    scale = _MM_PER_UNIT[unit]
    return np.asarray(np.diag([scale, scale, scale, 1.0]) @ affine, np.float64)


def save(volume: Volume, path: str | Path) -> None:
    """Write a NIfTI file, whole or not at all; the same image gives the same bytes. Booleans become uint8,
    64-bit types 32-bit.
    """
    path = Path(path)
    if not is_nifti(path):
        raise InputRefused(f"{foreign(path)} does not end in .nii or .nii.gz; give the file such a name")
    image = volume.to_nibabel()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, temporary.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(raw)


def open_nifti(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> Scan:
    """Open a head CT in HU from NIfTI; the JSON sidecar beside it becomes the acquisition.

    A sheared grid (gantry tilt left in the file) is resampled onto the orthogonal grid around it.
    """
    path = Path(path)
    volume = load(path, limits=limits)
    sidecar = read_sidecar(path, limits=limits)
    _refuse_other_images(path, volume, str(sidecar.get("Modality", "CT")))
    volume = volume.with_array(_hu(volume.array))
    if not volume.is_orthogonal:
        limits.check_growth(volume.orthogonal_grid().array.size, volume.array.size, path)
    scan = upright(volume)
    acquisition = _acquisition(sidecar, scan.volume)
    return replace(scan, acquisition=acquisition, source=Source(path), facts=_facts(sidecar))


def _refuse_other_images(path: Path, volume: Volume, modality: str) -> None:
    """Refuse what is not one CT of a head in HU."""
    if volume.array.ndim == 4:
        raise InputRefused(
            f"{foreign(path)} holds {volume.array.shape[3]} frames; a head CT has one: split the file and"
            " give one of them"
        )
    if modality != "CT":
        raise InputRefused(
            f"{foreign(path)} is not a CT: the JSON file beside it says Modality {foreign(modality)}"
        )
    refuse_impossible_size(volume, path)
    if objection := why_not_ct(volume.array):
        raise InputRefused(f"{foreign(path)} does not look like a CT in HU: {objection}")


def why_not_ct(array: Array) -> str:
    """Return in words why these values are not the HU of a whole head; "" if they may be.

    >>> why_not_ct(np.zeros((4, 4, 4)))
    'every voxel has the same value, 0'
    """
    if 0 in array.shape:
        return "it has no voxels"
    if array.dtype.kind == "c" or array.dtype.names is not None:
        return "it holds complex numbers or colours"
    if array.dtype.kind == "f" and (broken := int(np.count_nonzero(~np.isfinite(array)))):
        return f"{broken} voxels are not finite (NaN or infinite)"
    low, high = float(array.min()), float(array.max())
    if low == high:
        return f"every voxel has the same value, {low:g}"
    return _why_not_hu(array, low, high)


def _why_not_hu(array: Array, low: float, high: float) -> str:
    seen = f"its values go from {low:g} to {high:g}"
    if array.dtype.kind in "iub" and low >= 0 and high < 256 and np.unique(array).size <= 64:
        return f"{seen} in few steps, like a label map"
    if low >= 0 and _looks_shifted(array):
        return f"{seen} and its soft tissue lies near 1064, so 1024 was added to the HU; subtract it first"
    if low >= -15 and high <= 15:
        return f"{seen}, so it was normalised; give the HU"
    if low > -500:
        return (
            f"{seen}, so there is no air (-1000 HU): an MRI, a windowed picture or a head without its"
            " surroundings"
        )
    if high < 200:
        return f"{seen}, so there is no bone (above 200 HU)"
    if high > 100_000:
        return f"{seen}, and no tissue or metal is that bright"
    return ""


def _looks_shifted(array: Array) -> bool:
    soft = np.count_nonzero((array > 1024 - 20) & (array < 1024 + 100))
    mri_like = np.count_nonzero((array > 100) & (array < 800))
    return bool(soft > 0.02 * array.size and soft > 2 * mri_like)


def _hu(array: Array) -> Array:
    kept = array if array.dtype in (np.dtype(np.int16), np.dtype(np.float32)) else array.astype(np.float32)
    padded = kept < PADDING_BELOW_HU
    return np.where(padded, kept.dtype.type(AIR_HU), kept) if padded.any() else kept


# ---- opening a file that may be anything


def _opened(path: Path, limits: Limits, *, voxels: bool = True) -> Any:
    """Return a nibabel image whose size, position and unit have been checked; `voxels`: they are read too."""
    _check_file(path)
    packed = path.name.lower().endswith(".gz")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nibabel warns of odd values; what matters is refused below
            image, promised = _with_promise(path, limits, unpacked=packed and voxels)
    except (InputRefused, PermissionError):
        raise
    except _DAMAGED as error:
        raise InputRefused(
            f"{foreign(path)} is not a readable NIfTI file ({foreign(error)}); it may be damaged or cut short"
        ) from None
    if not isinstance(image, nibabel.Nifti1Image):
        raise InputRefused(f"{foreign(path)} is a {type(image).__name__}, not NIfTI; convert it first")
    if not packed and promised > path.stat().st_size:
        raise InputRefused(
            f"{foreign(path)} is damaged or cut short: its header promises"
            f" {' x '.join(map(str, image.shape))} voxels,"
            " which the file cannot hold"
        )
    _check_position(path, image)
    return image


def _with_promise(path: Path, limits: Limits, *, unpacked: bool) -> tuple[Any, int]:
    """Return the image, and the bytes that its header promises; unpacked to the end, where a checksum"
    " lies."""
    start = _first_bytes(path, packed=path.name.lower().endswith(".gz"))
    promised = _promised_bytes(path, start, limits)
    if not unpacked:
        return nibabel.load(path), promised
    most = promised + _TRAILING_BYTES
    content = inflated(path.read_bytes(), gzip=True, most=most, limits=limits, name=path)
    return _image_class(start).from_bytes(content), promised


def _check_file(path: Path) -> None:
    if not path.exists():
        raise InputRefused(f"{foreign(path)} does not exist; give an existing .nii or .nii.gz file")
    if path.is_dir() or not is_nifti(path):
        raise InputRefused(f"{foreign(path)} is not a NIfTI file; its name should end in .nii or .nii.gz")
    if not path.is_file():
        raise InputRefused(f"{foreign(path)} is a pipe, socket or device; give an ordinary file")
    if path.stat().st_size == 0:
        raise InputRefused(f"{foreign(path)} is empty (0 bytes); copy or export it again")


def _first_bytes(path: Path, *, packed: bool) -> bytes:
    with path.open("rb") as raw:
        if not packed:
            return raw.read(_HEADER_BYTES)
        return zlib.decompressobj(31).decompress(raw.read(16 * _HEADER_BYTES), _HEADER_BYTES)


def _promised_bytes(path: Path, start: bytes, limits: Limits) -> int:
    """Return how many bytes a file has according to its header, within the limits."""
    header = _image_class(start).header_class.from_fileobj(io.BytesIO(start), check=False)
    shape = header.get_data_shape()
    if min(shape, default=0) < 1:
        raise InputRefused(
            f"{foreign(path)} is damaged: its header gives the size"
            f" {' x '.join(map(str, shape)) or 'of nothing'}"
        )
    limits.check_voxels(shape, path)
    size = header.get_data_dtype().itemsize * prod(int(n) for n in shape)
    limits.check("unpacked_mib", size / MIB, f"{foreign(path)} promises {size / MIB:,.0f} MiB of voxels")
    offset = float(header["vox_offset"])
    if not 0 <= offset <= _LARGEST_OFFSET:
        raise InputRefused(f"{foreign(path)} is damaged: its voxels would begin at byte {offset:g}")
    return int(size + max(int(offset), header.sizeof_hdr))


def _image_class(start: bytes) -> Any:
    nifti_2 = int.from_bytes(start[:4], "little") == 540 or int.from_bytes(start[:4], "big") == 540
    return nibabel.Nifti2Image if nifti_2 else nibabel.Nifti1Image


def _check_position(path: Path, image: Any) -> None:
    """Refuse a file that does not say where left is, or says it twice differently."""
    header = image.header
    try:
        qform, qcode = header.get_qform(coded=True)
        sform, scode = header.get_sform(coded=True)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise InputRefused(
            f"{foreign(path)} gives an orientation that is no rotation (qform: {foreign(error)}); correct"
            " its header"
        ) from None
    if _unit(header) not in _MM_PER_UNIT:
        raise InputRefused(
            f"{foreign(path)} gives its size in a unit that NIfTI does not know; correct its header"
        )
    if not (qcode or scode):
        raise InputRefused(
            f"{foreign(path)} does not say where left and right are (qform and sform codes are 0); export"
            " it with its orientation"
        )
    template = int(scode) in _TEMPLATE_CODES and int(qcode) not in _TEMPLATE_CODES
    objection = _disagreement(image.shape, qform, sform, same_space=not template) if qcode and scode else ""
    if objection:
        raise InputRefused(f"{foreign(path)} says two different things about {objection}; correct its header")


def _unit(header: Any) -> str:
    try:
        return str(header.get_xyzt_units()[0])
    except KeyError:
        return ""


def _disagreement(shape: tuple[int, ...], qform: Floats, sform: Floats, *, same_space: bool) -> str:
    """Return in words how two maps from voxels to millimetres differ; "" where they do not.

    An image registered to a template (sform) may lie elsewhere in the scanner (qform), not turned around.
    """
    if not (np.isfinite(qform).all() and np.isfinite(sform).all()):
        return "its position (qform or sform is not finite)"
    lengths = [np.linalg.norm(a[:3, :3], axis=0) for a in (qform, sform)]
    if min(lengths[0].min(), lengths[1].min()) == 0:
        return ""  # singular: refused as such
    axes = [a[:3, :3] / length for a, length in zip((qform, sform), lengths, strict=True)]
    if min(abs(np.linalg.det(a)) for a in axes) < _SINGULAR:
        return ""
    if np.sum(axes[0] * axes[1], axis=0).min() < _SAME_DIRECTION:
        return "where its axes point (qform and sform are turned or mirrored)"
    if not same_space:
        return ""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in (*shape, 1, 1)[:3]])).reshape(3, -1)
    apart = np.linalg.norm((qform - sform)[:3, :3] @ corners + (qform - sform)[:3, 3:], axis=0)
    if apart.max() > max(_SAME_PLACE_MM, 0.5 * float(lengths[1].min())):
        return f"its place (qform and sform lie up to {apart.max():.1f} mm apart)"
    return ""


# ---- sidecar


def sidecar_path(path: str | Path) -> Path:
    """Return the JSON file that belongs to an image.

    >>> sidecar_path("a/scan.nii.gz").name
    'scan.json'
    """
    path = Path(path)
    name = path.name
    for suffix in reversed(SUFFIXES):
        if name.lower().endswith(suffix):
            return path.with_name(name[: -len(suffix)] + ".json")
    return path.with_suffix(".json")


def read_sidecar(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Return the content of the JSON file beside an image; {} if there is none."""
    beside = sidecar_path(path)
    if not beside.is_file():
        return {}
    content = read_json(beside, limits=limits)
    if not isinstance(content, dict):
        raise InputRefused(
            f"{foreign(beside)} holds a {type(content).__name__}; a sidecar is one JSON object"
        )
    return content


def write_sidecar(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write the JSON file beside an image; the same content gives the same bytes."""
    with atomic_file(sidecar_path(path)) as temporary:
        temporary.write_text(
            json.dumps(dict(content), indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )


# Field of Acquisition -> its BIDS name in a sidecar.
_BIDS_NAME = {
    "modality": "Modality",
    "manufacturer": "Manufacturer",
    "scanner": "ManufacturersModelName",
    "kernel": "ConvolutionKernel",
    "tube_kv": "KVP",
    "slice_thickness_mm": "SliceThickness",
    "contrast_agent": "ContrastBolusAgent",
    "series_description": "SeriesDescription",
    "tilt_deg": "GantryTiltDegrees",
}


_FREE_TEXT = ("series_description",)  # people type names and numbers into it: read where it is, never written


def sidecar_of(acquisition: Acquisition) -> dict[str, Any]:
    """Return an acquisition under BIDS names, without anything that tells who the patient is or when.

    >>> sidecar_of(Acquisition(tube_kv=120.0))
    {'Modality': 'CT', 'KVP': 120.0, 'GantryTiltDegrees': 0.0}
    """
    named = {
        name: getattr(acquisition, field) for field, name in _BIDS_NAME.items() if field not in _FREE_TEXT
    }
    if acquisition.slice_step_mm:
        named["SliceStepsMillimetres"] = list(acquisition.slice_step_mm)
    return {name: value for name, value in named.items() if value is not None}


def _acquisition(sidecar: Mapping[str, Any], volume: Volume) -> Acquisition:
    fields: dict[str, Any] = {}
    for field, name in _BIDS_NAME.items():
        value = sidecar.get(name)
        if field in ("tube_kv", "slice_thickness_mm", "tilt_deg"):
            if (number := _number(value)) is not None:
                fields[field] = number
        elif isinstance(value, list):
            fields[field] = "\\".join(map(str, value))
        elif isinstance(value, str | int | float):
            fields[field] = str(value)
    if not names_agent(fields.get("contrast_agent", "")):
        fields["contrast_agent"] = "yes" if sidecar.get("ContrastDeclared") is True else None
    given = sidecar.get("SliceStepsMillimetres")
    steps = [_number(step) for step in given] if isinstance(given, list) else []
    known = [step for step in steps if step is not None] or [max(volume.spacing_mm)]
    return Acquisition(**fields, slice_step_mm=tuple(round(step, 4) for step in known))


def _facts(sidecar: Mapping[str, Any]) -> dict[str, str | float]:
    """Return age and sex, as far as the sidecar tells."""
    facts: dict[str, str | float] = {}
    low, high = FACTS["age_years"]
    if (age := _number(sidecar.get("AgeYears"))) is not None and low <= age <= high:
        facts["age_years"] = age
    if sidecar.get("Sex") in ("M", "F"):
        facts["sex"] = str(sidecar["Sex"])
    return facts


def _number(value: Any) -> float | None:
    """Return a finite number of a sidecar as float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
