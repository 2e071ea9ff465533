"""HU from whatever a file stores: transfer syntaxes, rescaling, padding, sign, foreign bits, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file

from builders.series import Quirks, ball, build_series, datasets_of, encoded
from ichnos.errors import InputRefused
from ichnos.formats import open_scan
from ichnos.formats.dicom.files import FileReader
from ichnos.formats.dicom.headers import read_headers
from ichnos.formats.dicom.pixels import hu_of

SYNTAXES = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
]
SMALL = {"steps_mm": (5.0,) * 8, "shape": (40, 36)}


def ramp(mm: np.ndarray) -> np.ndarray:
    """A field with every value from air to bone, different on each slice."""
    return np.clip(np.round(mm[..., 0] * 60 + mm[..., 1] + mm[..., 2]), -1000, 1200)


def opened(field: object, folder: Path, **quirks: object) -> np.ndarray:
    build_series(field, folder / "s", Quirks(**{**SMALL, **quirks}))  # type: ignore[arg-type]
    return np.asarray(open_scan(folder / "s").hu)


@pytest.mark.parametrize("vendor", ["siemens", "canon", "ge"])  # unsigned 12 bits, signed 13, signed 16
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name)
def test_every_transfer_syntax_gives_the_same_hu(syntax: uid.UID, vendor: str, tmp_path: Path) -> None:
    if "High-Throughput" in syntax.name:
        pytest.importorskip("imagecodecs", reason="the only encoder of HTJ2K at hand")
    plain = opened(ramp, tmp_path / "plain", vendor=vendor)
    packed = opened(ramp, tmp_path / "packed", vendor=vendor, syntax=syntax)
    assert plain.dtype == packed.dtype == np.int16
    assert plain.min() == -1000
    assert plain.max() == 1200
    assert (plain == packed).all()


def test_compressed_multi_frame_gives_the_same_hu(tmp_path: Path) -> None:
    plain = opened(ramp, tmp_path / "plain")
    assert (opened(ramp, tmp_path / "one", enhanced=True) == plain).all()
    assert (opened(ramp, tmp_path / "two", enhanced=True, syntax=uid.RLELossless) == plain).all()


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    assert (opened(ramp, tmp_path / "bare", no_preamble=True) == opened(ramp, tmp_path / "plain")).all()


def test_each_slice_has_its_own_slope_and_intercept(tmp_path: Path) -> None:
    quirks = Quirks(**SMALL)  # type: ignore[arg-type]
    for k, data in enumerate(datasets_of(ball(8), quirks)):
        pixels = np.frombuffer(data.PixelData, "<u2").astype(int) - 1024
        slope, intercept = (1, -1024) if k % 2 else (2, -1100 - 2 * k)
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
        data.PixelData = ((pixels - intercept) // slope).astype("<u2").tobytes()
        (tmp_path / f"{k}.dcm").write_bytes(encoded(data, quirks))
    assert set(np.unique(open_scan(tmp_path).hu)) == {-1000, 60}


def test_fractions_of_hu_make_floats(tmp_path: Path) -> None:
    hu = opened(
        ball(8, inside_hu=40.25), tmp_path, header={"slope": 0.25, "intercept": -1024.0, "bits_stored": 15}
    )
    assert hu.dtype == np.float32
    assert set(np.unique(hu)) == {-1000.0, 40.25}


@pytest.mark.parametrize("value", [-1500.0, -2000.0, -2048.0, -3024.0])
@pytest.mark.parametrize("vendor", ["ge", "siemens"])
def test_padding_is_air(value: float, vendor: str, tmp_path: Path) -> None:
    header = {"signed": True, "bits_stored": 16, "intercept": 0.0}
    hu = opened(ball(8, outside_hu=-900.0), tmp_path, vendor=vendor, padding_hu=value, header=header)
    assert set(np.unique(hu)) == {-1000, -900, 60}
    assert hu[0, 0, 0] == -1000


def test_padding_attribute_is_air_even_where_its_value_looks_like_fat(tmp_path: Path) -> None:
    hu = opened(ball(8, outside_hu=-900.0), tmp_path, padding_hu=-250.0, padding_attribute=True)
    assert set(np.unique(hu)) == {-1000, -900, 60}


def test_padding_attribute_that_would_erase_tissue_is_not_believed(tmp_path: Path) -> None:
    hu = opened(ball(8, inside_hu=0.0), tmp_path, vendor="canon", tags={"PixelPaddingValue": 0})
    assert (hu == 0).any()


def test_negative_padding_written_as_unsigned_is_air(tmp_path: Path) -> None:
    quirks = Quirks(**SMALL, header={"bits_stored": 16, "intercept": -1024.0})  # type: ignore[arg-type]
    for k, data in enumerate(datasets_of(ball(8), quirks)):
        pixels = np.frombuffer(data.PixelData, "<u2").copy()
        pixels[:50] = 63536  # -2000
        data.PixelData = pixels.tobytes()
        (tmp_path / f"{k}.dcm").write_bytes(encoded(data, quirks))
    assert set(np.unique(open_scan(tmp_path).hu)) == {-1000, 60}


def test_a_skull_stored_over_the_full_unsigned_range_is_bone(tmp_path: Path) -> None:
    quirks = Quirks(**SMALL, header={"bits_stored": 16, "intercept": -1024.0})  # type: ignore[arg-type]
    for k, data in enumerate(datasets_of(ball(8, inside_hu=2900.0), quirks)):
        pixels = np.frombuffer(data.PixelData, "<u2")
        data.RescaleSlope, data.PixelData = "0.0625", (pixels * np.uint16(16)).tobytes()
        (tmp_path / f"{k}.dcm").write_bytes(encoded(data, quirks))
    assert set(np.unique(open_scan(tmp_path).hu)) == {-1000, 2900}


def test_bits_above_the_stored_ones_do_not_count(tmp_path: Path) -> None:
    assert set(np.unique(opened(ball(8), tmp_path, high_bits=True))) == {-1000, 60}


@pytest.mark.parametrize("high_bit", [0, 3, 16, 65_535])
def test_an_impossible_high_bit_is_not_believed(high_bit: int, tmp_path: Path) -> None:
    assert (
        opened(ramp, tmp_path / "odd", tags={"HighBit": high_bit}) == opened(ramp, tmp_path / "plain")
    ).all()


def test_monochrome1_changes_the_display_and_not_the_hu(tmp_path: Path) -> None:
    assert set(np.unique(opened(ball(8), tmp_path, monochrome1=True))) == {-1000, 60}


def test_monochrome1_with_inverted_pixels_is_turned_back(tmp_path: Path) -> None:
    quirks = Quirks(**SMALL, monochrome1=True)  # type: ignore[arg-type]
    for k, data in enumerate(datasets_of(ball(8), quirks)):
        data.PixelData = (4095 - np.frombuffer(data.PixelData, "<u2")).astype("<u2").tobytes()
        (tmp_path / f"{k}.dcm").write_bytes(encoded(data, quirks))
    assert set(np.unique(open_scan(tmp_path).hu)) == {-1000, 60}


def test_header_that_contradicts_the_sign_in_jpeg_2000(tmp_path: Path) -> None:
    quirks = {"syntax": uid.JPEG2000Lossless, "pixel_representation_wrong": True}
    assert set(np.unique(opened(ball(8), tmp_path, **quirks))) == {-1000, 60}


def test_real_head_slice_with_wrong_sign_in_jpeg_2000() -> None:
    path = Path(str(get_testdata_file("J2K_pixelrep_mismatch.dcm")))
    with FileReader() as reader:
        (frame,) = read_headers(path, reader).frames
        hu = hu_of([frame], reader)[0]
    assert frame.stored.signed
    assert hu.min() >= -1400, "padding of -2000 became air"
    assert (hu[0, 0], hu[-1, -1]) == (-1000, -1000)
    brain = hu[200:300, 200:300]
    assert 20 <= np.median(brain) <= 60
    assert 1000 < hu.max() < 3000
    normal = frame.affine[:3, 2]
    assert np.rad2deg(np.arccos(normal[2])) == pytest.approx(22.0, abs=0.01)


# ---- damage
# ------------------------------------------------------------------------------------------


def test_cut_off_pixels_are_refused(tmp_path: Path) -> None:
    files = build_series(ball(8), tmp_path, Quirks(**SMALL))  # type: ignore[arg-type]
    files[3].write_bytes(files[3].read_bytes()[:-500])
    with pytest.raises(InputRefused, match="cut short"):
        open_scan(tmp_path)


def test_damaged_stream_is_refused(tmp_path: Path) -> None:
    files = build_series(ball(8), tmp_path, Quirks(**SMALL, syntax=uid.JPEG2000Lossless))  # type: ignore[arg-type]
    content = files[2].read_bytes()
    files[2].write_bytes(content[:-300] + bytes(300))
    data = pydicom.dcmread(files[4])
    data.PixelData = pydicom.encaps.encapsulate([b"not a picture"])
    data.save_as(files[4])
    with pytest.raises(InputRefused, match=r"JPEG 2000.* cannot be decoded"):
        open_scan(tmp_path)


def test_unknown_codec_is_named(tmp_path: Path) -> None:
    files = build_series(ball(8), tmp_path, Quirks(**SMALL, syntax=uid.RLELossless))  # type: ignore[arg-type]
    for file in files:
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = uid.MPEG2MPML
        data.save_as(file)
    with pytest.raises(InputRefused, match=r"MPEG2.* cannot be decoded"):
        open_scan(tmp_path)
