"""NIfTI in and out: any orientation and number type; what does not look like a head CT is refused with the
reason.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ichnos.errors import InputRefused
from ichnos.files import atomic_file
from ichnos.scan import AIR_HU, PADDING_BELOW_HU, Acquisition, Scan, Source
from ichnos.volume import Array, Volume

SUFFIXES = (".nii", ".nii.gz")
_MOST_PACKED = 1100  # gzip cannot shrink anything further than about 1030 times
_MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def is_nifti(path: str | Path) -> bool:
    """Say whether a file's name ends as NIfTI names do.

    >>> is_nifti("scan.nii.gz"), is_nifti("scan.dcm")
    (True, False)
    """
    return str(path).lower().endswith(SUFFIXES)


def load(path: str | Path) -> Volume:
    """Load any NIfTI image as it is: number type kept where it is not scaled, a single fourth frame
    dropped, RAS mm.
    """
    image = _opened(Path(path))
    units = _mm_per_unit(Path(path), image)
    try:
        if (
            str(path).lower().endswith(".gz")
        ):  # unpack it to the end, where gzip's checksum tells damage that nibabel would not notice
            image = type(image).from_bytes(gzip.decompress(Path(path).read_bytes()))
        volume = Volume.from_nibabel(image)
    except (OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise InputRefused(f"{path} is damaged or cut short: its voxels cannot be read ({error})") from None
    return (
        Volume(volume.array, np.diag([units, units, units, 1.0]) @ volume.affine) if units != 1.0 else volume
    )


def load_grid(path: str | Path) -> Volume:
    """Return the grid of an image without its voxels (one byte in all, zero)."""
    image = _opened(Path(path))
    units = _mm_per_unit(Path(path), image)
    shape = tuple(int(n) for n in (*image.shape, 1, 1, 1)[:3])
    return Volume(np.broadcast_to(np.uint8(0), shape), np.diag([units, units, units, 1.0]) @ image.affine)


def save(volume: Volume, path: str | Path) -> None:
    """Write a NIfTI file, whole or not at all; the same image gives the same bytes. Booleans become uint8,
    64-bit types 32-bit.
    """
    path = Path(path)
    if not is_nifti(path):
        raise InputRefused(f"{path} does not end in .nii or .nii.gz; give the file such a name")
    image = volume.to_nibabel()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, temporary.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(raw)


def open_nifti(path: str | Path) -> Scan:
    """Open a head CT in HU from NIfTI; what the JSON sidecar beside it tells becomes the acquisition.

    A sheared grid (gantry tilt left in the file) is resampled onto the orthogonal grid around it.
    """
    path = Path(path)
    volume = load(path)
    if volume.array.ndim == 4:
        raise InputRefused(
            f"{path} holds {volume.array.shape[3]} frames; a head CT has one: split the file and give one of"
            " them"
        )
    sidecar = read_sidecar(path)
    modality = str(sidecar.get("Modality", "CT"))
    if modality != "CT":
        raise InputRefused(f"{path} is not a CT: the JSON file beside it says Modality {modality}")
    if objection := why_not_ct(volume.array):
        raise InputRefused(f"{path} does not look like a CT in HU: {objection}")
    volume = volume.with_array(_hu(volume.array))
    if not volume.is_orthogonal:
        volume = volume.on_grid(volume.orthogonal_grid(), fill=AIR_HU)
    return Scan(volume, _acquisition(sidecar, volume), Source(path))


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


def _opened(path: Path) -> Any:
    if not path.exists():
        raise InputRefused(f"{path} does not exist; give an existing .nii or .nii.gz file")
    if path.is_dir() or not is_nifti(path):
        raise InputRefused(f"{path} is not a NIfTI file; its name should end in .nii or .nii.gz")
    if path.stat().st_size == 0:
        raise InputRefused(f"{path} is empty (0 bytes); copy or export it again")
    try:
        image: Any = nibabel.load(path)
    except PermissionError:
        raise
    except (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        OSError,
        EOFError,
        zlib.error,
        ValueError,
    ) as e:
        raise InputRefused(
            f"{path} is not a readable NIfTI file ({e}); it may be damaged or cut short"
        ) from None
    if not isinstance(image, nibabel.Nifti1Image):
        raise InputRefused(f"{path} is a {type(image).__name__}, not NIfTI; convert it first")
    _check_size(path, image)
    _check_position(path, image)
    return image


def _check_size(path: Path, image: Any) -> None:
    """Refuse a header that promises more than the file can hold, before memory is set aside for it."""
    if min(image.shape, default=0) < 1:
        raise InputRefused(
            f"{path} is damaged: its header gives the size"
            f" {' x '.join(map(str, image.shape)) or 'of nothing'}"
        )
    promised = float(np.prod(np.array(image.shape, np.float64))) * image.get_data_dtype().itemsize
    held = path.stat().st_size * (_MOST_PACKED if path.name.lower().endswith(".gz") else 1)
    if promised > held:
        raise InputRefused(
            f"{path} is damaged or cut short: its header promises {' x '.join(map(str, image.shape))} voxels,"
            " which the file cannot hold"
        )


def _mm_per_unit(path: Path, image: Any) -> float:
    try:
        return _MM_PER_UNIT[image.header.get_xyzt_units()[0]]
    except KeyError:
        raise InputRefused(
            f"{path} gives its size in a unit that NIfTI does not know; correct its header"
        ) from None


def _check_position(path: Path, image: Any) -> None:
    """Refuse a file that does not say where left is, or says it twice differently."""
    try:
        (qform, qcode), (sform, scode) = (
            image.header.get_qform(coded=True),
            image.header.get_sform(coded=True),
        )
    except ValueError as error:
        raise InputRefused(
            f"{path} gives an orientation that is no rotation (qform: {error}); correct its header"
        ) from None
    if not (qcode or scode):
        raise InputRefused(
            f"{path} does not say where left and right are (qform and sform codes are 0); export it with its"
            " orientation"
        )
    if qcode and scode and np.linalg.det(qform[:3, :3]) * np.linalg.det(sform[:3, :3]) < 0:
        raise InputRefused(
            f"{path} says two different things about left and right (qform and sform are mirrored); correct"
            " its header"
        )


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


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """Return what the JSON file beside an image says; {} if there is none."""
    beside = sidecar_path(path)
    if not beside.is_file():
        return {}
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputRefused(f"{beside} is not JSON ({error}); correct or remove it") from None
    if not isinstance(content, dict):
        raise InputRefused(f"{beside} holds a {type(content).__name__}; a sidecar is one JSON object")
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
    told: dict[str, Any] = {}
    for field, name in _BIDS_NAME.items():
        value = sidecar.get(name)
        if value is None:
            continue
        number = field in ("tube_kv", "slice_thickness_mm", "tilt_deg")
        if number and not isinstance(value, int | float):
            continue
        told[field] = (
            float(value) if number else "\\".join(map(str, value)) if isinstance(value, list) else str(value)
        )
    steps = sidecar.get("SliceStepsMillimetres") or [max(volume.spacing_mm)]
    return Acquisition(**told, slice_step_mm=tuple(round(float(step), 4) for step in steps))
