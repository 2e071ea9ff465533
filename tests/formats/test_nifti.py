"""NIfTI: everything that is a head CT comes in placed rightly, everything else is refused with its reason;
what goes out is whole.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import ichnos
from ichnos.errors import InputRefused
from ichnos.formats import nifti
from ichnos.formats.deidentified import sidecar_without_identity
from ichnos.reading.safety import refuse_minors
from ichnos.scan import Acquisition, Scan
from ichnos.volume import Volume, centroid_mm, volume_ml


def head(dtype: object = np.int16, *, shape: tuple[int, int, int] = (40, 44, 20)) -> Volume:
    """A skull, a brain, and a clot on the left, in air."""
    affine = np.diag([4.0, 4.0, 7.0, 1.0])
    affine[:3, 3] = -80, -88, -60
    volume = Volume(np.zeros(shape, np.float32), affine)
    mm = volume.world(np.moveaxis(np.indices(shape), 0, -1))
    r = np.linalg.norm(mm / (70, 85, 65), axis=-1)
    hu = np.select([r < 0.9, r < 1.0], [30.0, 900.0], -1000.0)
    hu[np.linalg.norm(mm - (-25, 0, 0), axis=-1) < 16] = 65
    return volume.with_array(hu.astype(dtype))


def clot(volume: Volume) -> np.ndarray:
    return centroid_mm(volume.map_array(lambda a: np.abs(a - 65) < 1))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64, np.int64, np.float16, ">i2"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_number_type_goes_out_and_comes_in(dtype: object, suffix: str, tmp_path: Path) -> None:
    volume = head(dtype)
    nifti.save(volume, tmp_path / f"scan{suffix}")
    scan = ichnos.open(tmp_path / f"scan{suffix}")
    assert np.array_equal(np.asarray(scan.hu, np.float64), volume.array.astype(np.float64))
    assert scan.volume.same_grid(volume)
    assert scan.volume.array.dtype in (np.int16, np.float32)


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "LPS", "LPI", "ASR", "PIR", "SLP", "IRA"])
def test_the_clot_stays_on_the_left_whatever_the_axes(orientation: str, tmp_path: Path) -> None:
    nifti.save(head().reoriented(orientation), tmp_path / "scan.nii.gz")
    scan = nifti.open_nifti(tmp_path / "scan.nii.gz")
    assert scan.volume.orientation == orientation
    assert np.allclose(clot(scan.volume), clot(head()), atol=1e-3)
    assert clot(scan.volume)[0] < -20


def test_scaled_integers_become_their_values(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(((head().array + 1024) // 2).astype(np.int16), head().affine)
    image.header.set_slope_inter(2, -1024)
    nibabel.save(image, tmp_path / "scan.nii")
    assert np.abs(nifti.open_nifti(tmp_path / "scan.nii").hu - head().array).max() <= 1


def test_padding_is_air(tmp_path: Path) -> None:
    padded = head().array.copy()
    padded[0], padded[1], padded[2] = -3024, -2000, -1500
    nifti.save(head().with_array(padded), tmp_path / "scan.nii.gz")
    assert np.array_equal(np.unique(nifti.open_nifti(tmp_path / "scan.nii.gz").hu[:3]), [-1000])


def test_one_frame_is_taken_and_more_are_refused(tmp_path: Path) -> None:
    nifti.save(head().with_array(head().array[..., None]), tmp_path / "one.nii.gz")
    assert nifti.open_nifti(tmp_path / "one.nii.gz").volume.array.ndim == 3
    nifti.save(head().with_array(np.stack([head().array] * 3, axis=-1)), tmp_path / "three.nii.gz")
    with pytest.raises(InputRefused, match="3 frames"):
        nifti.open_nifti(tmp_path / "three.nii.gz")


def _ct(scale: float = 1, shift: float = 0, low: float = -1e9, high: float = 1e9) -> np.ndarray:
    return np.clip(head(np.float32).array * scale + shift, low, high)


NOT_CT = {
    "normalised": (_ct(0.001), "normalised"),
    "a label map": ((head().array > 0).astype(np.uint8), "label map"),
    "brain window": (_ct(low=0, high=80), "no air"),
    "MRI": (np.abs(_ct(0.5, 30)) * (head().array > -500), "no air"),
    "shifted by 1024": (_ct(shift=1024, low=0), "subtract"),
    "constant": (np.full((9, 9, 9), -5, np.int16), "same value"),
    "no bone": (_ct(high=150), "no bone"),
    "far too bright": (_ct(500), "no tissue"),
    "one NaN": (
        np.where(np.indices(head().shape).sum(axis=0) == 0, np.nan, _ct()).astype(np.float32),
        "1 voxels are not finite",
    ),
    "one infinite": (np.where(_ct() > 800, np.inf, _ct()).astype(np.float32), "not finite"),
    "complex": (_ct().astype(np.complex64), "complex"),
}


@pytest.mark.parametrize("name", NOT_CT)
def test_what_is_not_a_ct_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    array, reason = NOT_CT[name]
    nibabel.save(nibabel.Nifti1Image(array, head().affine), tmp_path / "scan.nii.gz")
    with pytest.raises(InputRefused, match=reason) as refusal:
        nifti.open_nifti(tmp_path / "scan.nii.gz")
    assert "scan.nii.gz" in str(refusal.value)


def test_an_mri_by_its_own_word_is_refused(tmp_path: Path) -> None:
    nifti.save(head(), tmp_path / "scan.nii.gz")
    nifti.write_sidecar(tmp_path / "scan.nii.gz", {"Modality": "MR"})
    with pytest.raises(InputRefused, match="Modality MR"):
        nifti.open_nifti(tmp_path / "scan.nii.gz")


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    nifti.save(head(), tmp_path / "whole.nii.gz")
    nifti.save(head(), tmp_path / "whole.nii")
    packed, plain = (tmp_path / "whole.nii.gz").read_bytes(), (tmp_path / "whole.nii").read_bytes()
    broken = bytearray(packed)
    broken[len(broken) // 2] ^= 0xFF
    cases = {
        "empty.nii.gz": b"",
        "cut.nii.gz": packed[: len(packed) // 2],
        "cut.nii": plain[: len(plain) // 2],
        "header-only.nii": plain[:352],
        "flipped.nii.gz": bytes(broken),
        "text.nii": b"this is no image at all",
        "text.nii.gz": gzip.compress(b"this is no image at all"),
        "not-zipped.nii.gz": b"neither gzip nor image",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputRefused, match=name.replace(".", r"\.")):
            nifti.open_nifti(tmp_path / name)
    with pytest.raises(InputRefused, match="does not exist"):
        nifti.open_nifti(tmp_path / "absent.nii.gz")
    with pytest.raises(InputRefused, match="should end in"):
        nifti.load(tmp_path)


@given(st.integers(0, 347), st.binary(min_size=1, max_size=8))
@example(at=263, junk=b"@")  # a quaternion longer than one
@example(at=107, junk=b"\x00\x00\x00\x00_")  # voxels that begin behind the end of any file
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore")
def test_a_header_full_of_nonsense_is_read_or_refused(tmp_path: Path, at: int, junk: bytes) -> None:
    small = head(shape=(6, 6, 6))
    nifti.save(small.with_array(np.resize(np.int16([-1000, 30, 900]), (6, 6, 6))), tmp_path / "scan.nii")
    content = bytearray((tmp_path / "scan.nii").read_bytes())
    content[at : at + len(junk)] = junk
    (tmp_path / "odd.nii").write_bytes(bytes(content))
    try:
        scan = nifti.open_nifti(tmp_path / "odd.nii")
    except InputRefused:
        return
    assert np.isfinite(scan.volume.affine).all()
    assert np.isfinite(scan.hu).all()


def test_a_file_that_does_not_say_where_left_is_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(head().array, None)
    nibabel.save(image, tmp_path / "nowhere.nii")
    with pytest.raises(InputRefused, match="left and right"):
        nifti.load(tmp_path / "nowhere.nii")
    image = head().to_nibabel()
    mirrored = np.diag([-1.0, 1, 1, 1]) @ head().affine
    image.set_qform(mirrored, code=1)
    nibabel.save(image, tmp_path / "both.nii")
    with pytest.raises(InputRefused, match="two different things"):
        nifti.load(tmp_path / "both.nii")
    header = head().to_nibabel().header
    broken = head().affine.copy()
    broken[:, 0] = broken[:, 1]
    header.set_sform(broken, code=1)
    nibabel.save(nibabel.Nifti1Image(head().array, None, header), tmp_path / "flat.nii")
    with pytest.raises(InputRefused, match="singular"):
        nifti.load(tmp_path / "flat.nii")


def test_metres_and_microns_become_millimetres(tmp_path: Path) -> None:
    for unit, per_mm in (("meter", 0.001), ("micron", 1000.0)):
        image = nibabel.Nifti1Image(head().array, np.diag([per_mm] * 3 + [1]) @ head().affine)
        image.header.set_xyzt_units(unit)
        nibabel.save(image, tmp_path / "scan.nii")
        assert nifti.load(tmp_path / "scan.nii").same_grid(head(), tolerance_mm=0.01)
        assert nifti.load_grid(tmp_path / "scan.nii").same_grid(head(), tolerance_mm=0.01)


def test_a_sheared_scan_gets_right_angles_and_keeps_the_clot(tmp_path: Path) -> None:
    affine = head().affine.copy()
    affine[1, 2] = 7 * np.tan(np.deg2rad(15))
    sheared = head(np.float32).on_grid(Volume(np.zeros(head().shape), affine), fill=-1000)
    nifti.save(sheared, tmp_path / "scan.nii.gz")
    assert nifti.load(tmp_path / "scan.nii.gz").same_grid(sheared)
    scan = nifti.open_nifti(tmp_path / "scan.nii.gz")
    assert scan.volume.is_orthogonal
    blood = scan.volume.map_array(lambda a: (a > 50) & (a < 80))
    truth = head().map_array(lambda a: a == 65)
    assert scan.given_grid is not None
    assert scan.given_grid.same_grid(sheared)
    near = np.linalg.norm(scan.volume.world(np.argwhere(blood.array)) - (-25, 0, 0), axis=1) < 20
    assert near.sum() * scan.volume.voxel_ml == pytest.approx(volume_ml(truth), rel=0.3)


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    nifti.save(head(), tmp_path / "a.nii.gz")
    time.sleep(1.1)
    nifti.save(head(), tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".tmp")]


def test_a_mask_is_stored_in_bytes_and_read_by_others(tmp_path: Path) -> None:
    mask = head().map_array(lambda a: a == 65)
    nifti.save(mask, tmp_path / "mask.nii.gz")
    image = nibabel.load(tmp_path / "mask.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert np.allclose(image.get_qform(), mask.affine, atol=1e-4)
    assert np.allclose(image.get_sform(), mask.affine, atol=1e-4)
    with pytest.raises(InputRefused, match="such a name"):
        nifti.save(mask, tmp_path / "mask.mha")
    with pytest.raises(InputRefused, match="32 bits"):
        nifti.save(head().with_array(head().array.astype(np.int64) * 2**40), tmp_path / "huge.nii")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nifti.save(head(), tmp_path / "scan.nii.gz")
    before = (tmp_path / "scan.nii.gz").read_bytes()

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nibabel.Nifti1Image, "to_stream", full)
    with pytest.raises(OSError, match="No space left"):
        nifti.save(head(), tmp_path / "scan.nii.gz")
    assert (tmp_path / "scan.nii.gz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]


def with_sidecar(folder: Path, **content: object) -> Scan:
    nifti.save(head(), folder / "scan.nii.gz")
    nifti.write_sidecar(folder / "scan.nii.gz", content)
    return nifti.open_nifti(folder / "scan.nii.gz")


def test_age_and_sex_of_the_sidecar_are_facts_of_the_scan(tmp_path: Path) -> None:
    child = with_sidecar(tmp_path, AgeYears=9, Sex="F")
    assert child.facts == {"age_years": 9.0, "sex": "F"}
    assert "9 years old" in refuse_minors(child).at("refuse")[0].text
    assert with_sidecar(tmp_path, AgeYears=200, Sex="?").facts == {}
    assert with_sidecar(tmp_path, AgeYears="old", Sex=["M"]).facts == {}
    nifti.write_sidecar(tmp_path / "scan.nii.gz", sidecar_without_identity(child))
    assert nifti.open_nifti(tmp_path / "scan.nii.gz").facts == child.facts, "what convert writes is read"


@pytest.mark.parametrize("none", ["", "NONE", "No", "n/a", None])
def test_a_sidecar_that_says_that_no_agent_was_given_declares_none(none: str | None, tmp_path: Path) -> None:
    assert with_sidecar(tmp_path, ContrastBolusAgent=none).acquisition.contrast_agent is None


def test_a_declared_agent_stays_declared_through_convert(tmp_path: Path) -> None:
    angiography = with_sidecar(tmp_path, ContrastBolusAgent="Iohexol")
    assert angiography.acquisition.contrast_agent == "Iohexol"
    nifti.write_sidecar(tmp_path / "scan.nii.gz", sidecar_without_identity(angiography))
    assert nifti.open_nifti(tmp_path / "scan.nii.gz").acquisition.contrast_agent is not None


def test_the_sidecar_tells_how_the_scan_was_made_and_not_of_whom(tmp_path: Path) -> None:
    made = Acquisition(
        manufacturer="M",
        kernel="H31s",
        tube_kv=120.0,
        slice_step_mm=(4.0, 7.0),
        tilt_deg=12.0,
        date="20240317",
    )
    nifti.save(head(), tmp_path / "scan.nii.gz")
    nifti.write_sidecar(tmp_path / "scan.nii.gz", nifti.sidecar_of(made))
    read = nifti.open_nifti(tmp_path / "scan.nii.gz").acquisition
    assert (read.manufacturer, read.kernel, read.tube_kv, read.slice_step_mm, read.tilt_deg) == (
        "M",
        "H31s",
        120.0,
        (4.0, 7.0),
        12.0,
    )
    assert "20240317" not in (tmp_path / "scan.json").read_text()
    (tmp_path / "scan.json").write_text("{")
    with pytest.raises(InputRefused, match="not JSON"):
        nifti.open_nifti(tmp_path / "scan.nii.gz")
    (tmp_path / "scan.json").write_text(json.dumps({"KVP": "n/a", "ConvolutionKernel": ["J40s", "2"]}))
    assert nifti.open_nifti(tmp_path / "scan.nii.gz").acquisition.kernel == "J40s\\2"
