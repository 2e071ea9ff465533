"""Checks that `ichnos doctor` runs on this very installation. Each returns what it saw, in words, or
raises.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ichnos.scan import Scan
from ichnos.volume import Volume, centroid_mm, sphere, volume_ml

_ENGINE_LIMIT_S = 180
_ORIENTATIONS = ("RAS", "LPS", "ASR", "IPL")
# Transfer syntaxes that hospitals send: name -> UID. Those that something installed can write are written and
# read back.
_CODECS = {
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "HTJ2K": "1.2.840.10008.1.2.4.201",
}


@dataclass(frozen=True)
class SelfCheck:
    """One check and how it went."""

    name: str
    passed: bool
    text: str  # what was seen, or why it failed
    seconds: float


def run_checks(engines: tuple[str, ...], started: Callable[[str], None]) -> list[SelfCheck]:
    """Run every check; engines ("torch", "openvino") each in a process, so that a crash is only a finding.

    The processes run beside the other checks.
    """
    checks: dict[str, Callable[[], str]] = {
        "geometry": geometry,
        "NIfTI": nifti_round_trip,
        "DICOM codecs": codecs,
        "DICOM SEG on tilted slices": seg_round_trip,
    }
    with ThreadPoolExecutor(max_workers=max(1, len(engines))) as pool:
        apart = [pool.submit(_timed, name, partial(_apart, name), started) for name in engines]
        here = [_timed(name, check, started) for name, check in checks.items()]
        return [*here, *[future.result() for future in apart]]


def _timed(name: str, check: Callable[[], str], started: Callable[[str], None]) -> SelfCheck:
    started(name)
    began = time.perf_counter()
    try:
        passed, text = True, check()
    except (
        Exception
    ) as error:  # a broken library may raise anything; that is what the doctor is asked to find
        passed, text = False, f"{type(error).__name__}: {error}"
    return SelfCheck(name, passed, text, time.perf_counter() - began)


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise RuntimeError(otherwise)


def geometry() -> str:
    """Turn a ball without its left front, and resample it, there and back.

    >>> geometry()
    '4 orientations exact, volume kept to 0.23% when resampled'
    """
    ball = sphere(radius_mm=12, spacing_mm=(0.7, 0.7, 1.5), centre_mm=(20, -10, 5))
    ball.array[: ball.shape[0] // 2, ball.shape[1] // 2 :] = False  # so that mirroring shows
    centre_mm = centroid_mm(ball)
    for orientation in _ORIENTATIONS:
        turned = ball.reoriented(orientation)
        _expect(
            np.allclose(centroid_mm(turned), centre_mm), f"the ball moved when its axes became {orientation}"
        )
        _expect(
            np.array_equal(turned.reoriented("RAS").array, ball.array),
            f"the ball changed by way of {orientation}",
        )
    fine = ball.labels_on_grid(ball.grid_with_spacing(0.5))
    change = abs(volume_ml(fine) / volume_ml(ball) - 1)
    _expect(change < 0.02, f"the ball's volume changed by {change:.1%} when it was resampled")
    return f"{len(_ORIENTATIONS)} orientations exact, volume kept to {change:.2%} when resampled"


def nifti_round_trip() -> str:
    """Write and read a NIfTI file.

    >>> nifti_round_trip()
    'comes back as it was written'
    """
    from ichnos.formats import nifti

    with tempfile.TemporaryDirectory() as folder:
        head = _head()
        nifti.save(head, Path(folder) / "scan.nii.gz")
        back = nifti.open_nifti(Path(folder) / "scan.nii.gz").volume
    _expect(
        np.array_equal(back.array, head.array) and back.same_grid(head),
        "the image did not come back as it was written",
    )
    return "comes back as it was written"


def codecs() -> str:
    """Decode what hospitals send.

    >>> "RLE" in codecs()
    True
    """
    from pydicom.pixels.decoders.base import get_decoder

    missing = [name for name, uid in _CODECS.items() if not get_decoder(uid).is_available]
    _expect(not missing, f"no decoder for {', '.join(missing)}; reinstall ichnos with its dependencies")
    encodable = _encodable()
    tried = [name for name, uid in _CODECS.items() if uid in encodable]
    for name in tried:
        _expect(_decodes(_CODECS[name]), f"{name} decodes to other values than were encoded")
    untried = [name for name in _CODECS if name not in tried]
    found = f"; decoder found for {', '.join(untried)}" if untried else ""
    return f"{', '.join(tried)} decoded exactly{found}"


def _encodable() -> frozenset[str]:
    """Return the transfer syntaxes that can be written here, to try their decoders."""
    from pydicom.pixels.encoders import base

    encoders = (base.RLELosslessEncoder, base.JPEGLSLosslessEncoder, base.JPEG2000LosslessEncoder)
    return frozenset(str(encoder.UID) for encoder in encoders if encoder.is_available)


def _decodes(uid: str) -> bool:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    pixels = np.random.default_rng(0).integers(0, 4096, (32, 48), dtype=np.uint16)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = (
        32,
        48,
        1,
        "MONOCHROME2",
    )
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.SOPInstanceUID, image.PixelData = "2.25.1", pixels.tobytes()
    image.compress(uid, generate_instance_uid=False)
    return bool(np.array_equal(image.pixel_array, pixels))


def seg_round_trip() -> str:
    """Write a tilted, unevenly spaced series, open it, write a SEG on it and read that back."""
    from ichnos.formats.dicom import cut, open_dicom, stack_affines, write_series
    from ichnos.formats.dicom_seg import read_seg, write_seg

    head = _head()
    steps_mm = (5.0,) * 12 + (7.0,) * 6
    stack = stack_affines(centre_mm=(0, 0, 0), shape=(96, 96), pixel_mm=2.2, steps_mm=steps_mm, tilt_deg=15)
    with tempfile.TemporaryDirectory() as folder:
        write_series(cut(head, stack, shape=(96, 96)), Path(folder) / "series")
        scan: Scan = open_dicom(Path(folder) / "series")
        clot = scan.volume.map_array(lambda hu: (hu > 50) & (hu < 80))
        back = read_seg(write_seg(scan, {"ICH": clot}, Path(folder) / "seg.dcm").path, scan)["ICH"]
    _expect(bool(clot.array.any()), "the made clot is not in the scan")
    _expect(
        np.array_equal(back.array, clot.array), "the mask did not come back from the SEG as it was written"
    )
    _expect(bool(centroid_mm(back)[0] < 0), "left has become right")
    return f"mask of {volume_ml(clot):.1f} mL came back voxel for voxel, left is left"


def _head() -> Volume:
    """Make a skull, a brain and a clot on the left, in air."""
    shape = (64, 72, 40)
    affine = np.diag([3.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = -94.5, -106.5, -78
    grid = Volume(np.zeros(shape, np.int16), affine)
    mm = grid.world(np.moveaxis(np.indices(shape), 0, -1))
    r = np.linalg.norm(mm / (70, 85, 65), axis=-1)
    hu = np.select([r < 0.92, r < 1.0], [30, 900], -1000)
    hu[np.linalg.norm(mm - (-25, 0, 0), axis=-1) < 15] = 65
    return grid.with_array(hu.astype(np.int16))


# ---- engines, each in a process of its own
# --------------------------------------------------------------------------


def _apart(engine: str) -> str:
    code = f"from ichnos.cli.installation import selftest; print(selftest.{engine}_works())"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=_ENGINE_LIMIT_S, check=False
    )
    if told.returncode < 0:
        raise RuntimeError(
            f"its process was ended by signal {-told.returncode}; this build does not fit this machine"
        )
    last = (told.stderr.strip().splitlines() or ["it says nothing"])[-1]
    _expect(told.returncode == 0, last)
    return told.stdout.strip().splitlines()[-1]


def torch_works() -> str:
    """Compare a convolution in torch with one in scipy; say where torch can compute."""
    import torch
    from scipy import ndimage

    rng = np.random.default_rng(0)
    image, kernel = (
        rng.normal(size=(8, 9, 10)).astype(np.float32),
        rng.normal(size=(3, 3, 3)).astype(np.float32),
    )
    got = torch.nn.functional.conv3d(
        torch.from_numpy(image)[None, None], torch.from_numpy(kernel)[None, None], padding=1
    )[0, 0]
    _expect(
        bool(np.allclose(got.numpy(), ndimage.correlate(image, kernel, mode="constant"), atol=1e-4)),
        "torch convolves wrongly",
    )
    cards = (
        [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    return f"torch {torch.__version__} computes rightly on the CPU; GPU: {', '.join(cards) or 'none'}"


def openvino_works() -> str:
    """Compile and run a matrix product in OpenVINO at full precision."""
    import openvino as ov

    rng = np.random.default_rng(0)
    weights = rng.normal(size=(5, 6)).astype(np.float32)
    given = ov.opset13.parameter([4, 5], np.float32)
    model = ov.Model([ov.opset13.matmul(given, ov.opset13.constant(weights), False, False)], [given])
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = rng.normal(size=(4, 5)).astype(np.float32)
    _expect(
        bool(np.allclose(compiled([image])[0], image @ weights, atol=1e-4)), "OpenVINO multiplies wrongly"
    )
    return (
        f"OpenVINO {ov.__version__.split('-')[0]} computes rightly on"
        f" {', '.join(ov.Core().available_devices)}"
    )
