"""Malformed inputs for `fuzz.py`: each kind takes a generator and an empty folder, and gives what opens it.

Everything is small (12 slices of 32 x 32), because what is attacked are headers, lengths and promises.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

Action = Callable[[], object]
Maker = Callable[[np.random.Generator, Path], Action]

NASTY_TEXT = (
    "",
    " ",
    "\\\\",
    "1e999",
    "nan",
    "-inf",
    "0",
    "-1",
    "1\\2\\3\\4",
    "\0",
    "ü" * 40,
    "9" * 300,
    "$\\frac{$",
)
NASTY_NUMBER = (0, 1, -1, 255, 65535, 2**31 - 1, -(2**31), 2**32 - 1)
_FIELDS = """
    Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel NumberOfFrames
    RescaleSlope RescaleIntercept PixelSpacing ImagePositionPatient ImageOrientationPatient SliceThickness
    PhotometricInterpretation ImageType Modality SOPClassUID SOPInstanceUID SeriesInstanceUID
    StudyInstanceUID AcquisitionNumber InstanceNumber PatientAge PatientBirthDate PatientSex
    PixelPaddingValue KVP SpecificCharacterSet PatientName SeriesDescription ConvolutionKernel
    ContrastBolusVolume
"""
FIELDS = _FIELDS.split()
_SYNTAXES = """
    1.2.840.10008.1.2 1.2.840.10008.1.2.1 1.2.840.10008.1.2.2 1.2.840.10008.1.2.1.99 1.2.840.10008.1.2.4.50
    1.2.840.10008.1.2.4.57 1.2.840.10008.1.2.4.70 1.2.840.10008.1.2.4.80 1.2.840.10008.1.2.4.90
    1.2.840.10008.1.2.5 1.2.3.4 1.2.840.10008.1.2.4.201
"""
SYNTAXES = _SYNTAXES.split()


@lru_cache(maxsize=1)
def slices() -> list[bytes]:
    """Return the files of a sound series of 12 slices."""
    from builders.head import head_hu
    from builders.series import Quirks, datasets_of, encoded

    quirks = Quirks(shape=(32, 32), pixel_mm=8.0, steps_mm=(12.0,) * 11)
    return [encoded(data, quirks) for data in datasets_of(head_hu(), quirks)]


def damaged(content: bytes, rng: np.random.Generator, *, most: int = 6) -> bytes:
    """Flip, cut, double and insert bytes at random places, more often near the beginning."""
    out = bytearray(content)
    for _ in range(int(rng.integers(1, most + 1))):
        at = int(len(out) * rng.random() ** rng.choice([1, 3])) if out else 0
        what = rng.integers(5)
        if what == 0 and out:
            out[min(at, len(out) - 1)] ^= 1 << int(rng.integers(8))
        elif what == 1 and out:
            out[min(at, len(out) - 1)] = int(rng.integers(256))
        elif what == 2:
            del out[at : at + int(rng.integers(1, 64))]
        elif what == 3:
            out[at:at] = out[at : at + int(rng.integers(1, 64))]
        else:
            out[at:at] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(out[: int(rng.integers(len(out) + 1))] if rng.random() < 0.1 else out)


def written(folder: Path, files: list[bytes]) -> Path:
    """Write files into a folder under plain names."""
    for number, content in enumerate(files):
        (folder / f"IM{number:03d}").write_bytes(content)
    return folder


def opening(path: Path) -> Action:
    """Return what opens a place and judges what it holds."""

    def act() -> None:
        from ichnos.formats import inspect_path
        from ichnos.quality import judge

        judge(inspect_path(path).open())

    return act


def each_changed(rng: np.random.Generator, change: Callable[[Any, int], None]) -> list[bytes]:
    """Return the series with `change(dataset, number)` applied to one, some or all of its slices."""
    import pydicom

    chosen = rng.random(12) < rng.choice([0.1, 0.5, 1.0])
    out = []
    for number, content in enumerate(slices()):
        if chosen[number] or not chosen.any():
            data = pydicom.dcmread(io.BytesIO(content))
            change(data, number)
            buffer = io.BytesIO()
            data.save_as(buffer)
            content = buffer.getvalue()
        out.append(content)
    return out


# ---- DICOM


def dicom_bytes(rng: np.random.Generator, folder: Path) -> Action:
    """Damage the bytes of some slices."""
    chosen = rng.random(12) < rng.choice([0.1, 1.0])
    files = [damaged(c, rng) if hit else c for c, hit in zip(slices(), chosen, strict=True)]
    return opening(written(folder, files))


def dicom_fields(rng: np.random.Generator, folder: Path) -> Action:
    """Put nasty values into header elements, past all checks, or drop or double elements."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    names = [str(name) for name in rng.choice(FIELDS, int(rng.integers(1, 4)))]
    texts = [str(text).encode("latin-1") for text in rng.choice(NASTY_TEXT, len(names))]

    def change(data: Any, number: int) -> None:
        for name, text in zip(names, texts, strict=True):
            tag = Tag(tag_for_keyword(name) or 0)
            if rng.random() < 0.2:
                data.pop(tag, None)
                continue
            vr = dictionary_VR(tag) if rng.random() < 0.9 else str(rng.choice(["SQ", "UN", "OB", "FD", "XX"]))
            value = (
                text if vr not in ("US", "SS") else struct.pack("<H", int(rng.choice(NASTY_NUMBER)) & 0xFFFF)
            )
            raw = RawDataElement(tag, vr.split(" ")[0], len(value), value, 0, False, True, True)
            data._dict[tag] = raw

    try:
        return opening(written(folder, each_changed(rng, change)))
    except Exception:  # pydicom will not write such a value: damage the bytes instead
        return dicom_bytes(rng, folder)


def dicom_geometry(rng: np.random.Generator, folder: Path) -> Action:
    """Move, turn, shrink and double slices."""
    wild = float(rng.choice([1e-3, 1.0, 30.0, 1e4, 1e8]))

    def change(data: Any, number: int) -> None:
        what = rng.integers(6)
        if what == 0:
            data.ImagePositionPatient = [round(float(v), 4) for v in rng.normal(0, wild, 3)]
        elif what == 1:
            data.ImageOrientationPatient = [round(float(v), 4) for v in rng.normal(0, 1, 6)]
        elif what == 2:
            data.PixelSpacing = [f"{v:.4g}" for v in rng.choice([0, 1e-6, 0.5, 4, 1e3, -1], 2)]
        elif what == 3:
            data.Rows, data.Columns = (int(v) for v in rng.choice([0, 1, 16, 64, 1024, 65535], 2))
        elif what == 4:
            data.ImagePositionPatient = [0, 0, 0]
        else:
            data.SeriesInstanceUID = f"1.2.{rng.integers(3)}"

    return opening(written(folder, each_changed(rng, change)))


def dicom_syntaxes(rng: np.random.Generator, folder: Path) -> Action:
    """Declare another transfer syntax, with streams that are none, cut short or bombs."""
    from pydicom.encaps import encapsulate

    syntax = str(rng.choice(SYNTAXES))
    bomb = rng.random() < 0.1

    def change(data: Any, number: int) -> None:
        data.file_meta.TransferSyntaxUID = syntax
        if syntax.startswith("1.2.840.10008.1.2.4") or syntax.endswith("1.2.5"):
            data.PixelData = encapsulate([rng.bytes(int(rng.integers(1, 400)))])
            data["PixelData"].VR = "OB"
            data["PixelData"].is_undefined_length = True
        if bomb:
            data.Rows = data.Columns = int(rng.choice([20_000, 30_000, 65_535]))

    try:
        files = each_changed(rng, change)
    except Exception:  # not to be written as a dataset of that syntax: only named in the header
        files = [content.replace(b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2") for content in slices()]
    if syntax.endswith(".99") and rng.random() < 0.5:
        files[0] = files[0][:400] + zlib.compress(bytes(1 << 22))[2:-4]
    return opening(written(folder, files))


def functional_groups(rng: np.random.Generator, folder: Path) -> Action:
    """Write enhanced files with many, nested, empty and damaged functional groups."""
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", 0)
    count = int(rng.choice([0, 1, 100, 200_000]))
    inner = item * count
    for _ in range(int(rng.choice([0, 1, 50, 2000] if count < 200_000 else [0, 1]))):
        inner = (
            b"\xfe\xff\x00\xe0"
            + struct.pack("<I", len(inner) + 12)
            + struct.pack("<HH2sHI", 0x0018, 0x9346, b"SQ", 0, len(inner))
            + inner
        )
    sequence = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, len(inner)) + inner
    at = slices()[0].find(b"\xe0\x7f\x10\x00")
    content = slices()[0][:at] + sequence + slices()[0][at:]
    return opening(written(folder, [damaged(content, rng) if rng.random() < 0.3 else content]))


def zips(rng: np.random.Generator, folder: Path) -> Action:
    """Pack a series, then damage the archive, its lengths or the names in it."""
    buffer = io.BytesIO()
    packing = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    odd = str(rng.choice(["a/../b", "/x", "C:/x", "x\0y", "ü", "a//b", "." * 200]))
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for number, content in enumerate(slices()):
            name = odd if number == 5 and rng.random() < 0.2 else f"d/IM{number}"
            archive.writestr(name, content)
    content = buffer.getvalue()
    place = folder / "study.zip"
    place.write_bytes(damaged(content, rng) if rng.random() < 0.9 else content)
    return opening(place)


def dicomdirs(rng: np.random.Generator, folder: Path) -> Action:
    """Write a DICOMDIR beside a series: damaged, nested without end, or naming what is elsewhere."""
    written(folder, slices())
    records = b""
    for number in range(12):
        name = str(rng.choice([f"IM{number:03d}", "..", "x", "IM000", "A\\..\\B"])).encode()
        named = struct.pack("<HH2sH", 0x0004, 0x1500, b"CS", len(name)) + name
        records += b"\xfe\xff\x00\xe0" + struct.pack("<I", len(named)) + named
    open_ended = rng.random() < 0.5
    for _ in range(int(rng.choice([0, 3, 100, 1000]))):
        records = _item(_sequence(records, open_ended), open_ended)
    at = slices()[0].find(b"\x08\x00\x05\x00")  # after the file meta group
    content = slices()[0][:at] + _sequence(records, open_ended)
    (folder / "DICOMDIR").write_bytes(damaged(content, rng) if rng.random() < 0.5 else content)
    return opening(folder / "DICOMDIR")


def _sequence(content: bytes, open_ended: bool) -> bytes:
    head = struct.pack("<HH2sHI", 0x0004, 0x1220, b"SQ", 0, 0xFFFFFFFF if open_ended else len(content))
    return head + content + (b"\xfe\xff\xdd\xe0\0\0\0\0" if open_ended else b"")


def _item(content: bytes, open_ended: bool) -> bytes:
    head = b"\xfe\xff\x00\xe0" + struct.pack("<I", 0xFFFFFFFF if open_ended else len(content))
    return head + content + (b"\xfe\xff\x0d\xe0\0\0\0\0" if open_ended else b"")


# ---- NIfTI and what lies beside it


@lru_cache(maxsize=1)
def image() -> bytes:
    """Return a sound head as an uncompressed NIfTI file."""
    from builders.head import head_hu
    from ichnos.volume import Volume

    affine = np.diag([8.0, 8, 10, 1])
    affine[:3, 3] = -120
    grid = Volume(np.zeros((30, 30, 26), np.int16), affine)
    mm = grid.world(np.indices(grid.shape).transpose(1, 2, 3, 0))
    return bytes(grid.with_array(head_hu()(mm).astype(np.int16)).to_nibabel().to_bytes())


def niftis(rng: np.random.Generator, folder: Path) -> Action:
    """Damage header and voxels, lie about sizes, pack them well or badly, hang a bomb behind."""
    content = bytearray(image())
    for _ in range(int(rng.integers(0, 5))):
        at = int(
            rng.choice([0, 40, 42, 44, 46, 70, 72, 76, 80, 84, 88, 108, 112, 116, 123, 252, 254, 280, 300])
        )
        kind = str(rng.choice(["<h", "<f", "<i"]))
        value = float(rng.choice([0, 1, -1, 3, 300, 32767, 1e30, np.nan, np.inf]))
        with np.errstate(all="ignore"):
            number = value if kind == "<f" else int(np.nan_to_num(value, posinf=9e9)) % 2**15
        struct.pack_into(kind, content, at, number)
    made = damaged(bytes(content), rng) if rng.random() < 0.4 else bytes(content)
    if rng.random() < 0.5:
        path = folder / "scan.nii"
        path.write_bytes(made)
        return opening(path)
    path = folder / "scan.nii.gz"
    packed = gzip.compress(made + (bytes(1 << 25) if rng.random() < 0.03 else b""), 1)
    path.write_bytes(damaged(packed, rng) if rng.random() < 0.4 else packed)
    return opening(path)


def json_of(rng: np.random.Generator, depth: int = 0) -> Any:
    """Return any JSON value."""
    what = rng.integers(7 if depth < 3 else 5)
    if what == 5:
        return [json_of(rng, depth + 1) for _ in range(int(rng.integers(4)))]
    if what == 6:
        return {str(rng.choice(NASTY_TEXT)): json_of(rng, depth + 1) for _ in range(int(rng.integers(4)))}
    return [None, True, str(rng.choice(NASTY_TEXT)), float(rng.normal(0, 1e6)), 10**400][what]


def mutated(content: Any, rng: np.random.Generator) -> Any:
    """Return JSON content with one of its values replaced, or a key dropped."""
    if isinstance(content, dict) and content and rng.random() < 0.85:
        key = str(rng.choice(list(content)))
        rest = {k: v for k, v in content.items() if k != key}
        return rest if rng.random() < 0.2 else {**rest, key: mutated(content[key], rng)}
    if isinstance(content, list) and content and rng.random() < 0.7:
        at = int(rng.integers(len(content)))
        return [*content[:at], mutated(content[at], rng), *content[at + 1 :]]
    return json_of(rng)


def as_text(value: Any, rng: np.random.Generator) -> bytes:
    """Return JSON in some encoding, now and then damaged."""
    text = json.dumps(value)
    content = text.encode(str(rng.choice(["utf-8", "utf-16", "utf-8-sig", "latin-1", "utf-32"])))
    return damaged(content, rng) if rng.random() < 0.3 else content


def sidecars(rng: np.random.Generator, folder: Path) -> Action:
    """Put JSON of wrong type, encoding and depth beside an image."""
    good = {
        "Modality": "CT",
        "KVP": 120,
        "SliceThickness": 5,
        "SliceStepsMillimetres": [5.0],
        "Manufacturer": "x",
    }
    (folder / "scan.nii").write_bytes(image())
    deep = b"[" * 100_000 if rng.random() < 0.02 else as_text(mutated(good, rng), rng)
    (folder / "scan.json").write_bytes(deep)
    return opening(folder / "scan.nii")


def tables(rng: np.random.Generator, folder: Path) -> Action:
    """Write participants and facts in odd encodings, with odd fields, lengths and columns."""
    columns = ["participant_id", "centre", "split", "age_years", "gcs", "id"]
    rng.shuffle(columns[2:])
    rows = [
        [str(rng.choice([*NASTY_TEXT, "sub-1", "train", "71", "n/a"])) for _ in columns] for _ in range(5)
    ]
    if rng.random() < 0.1:
        rows[0][1] = "x" * 200_000
    text = "\n".join("\t".join(line[: int(rng.integers(4, 9))]) for line in [columns, *rows])
    content = text.encode(str(rng.choice(["utf-8", "utf-16", "utf-8-sig", "cp1252"])), errors="replace")
    content = damaged(content, rng) if rng.random() < 0.5 else content
    for name in ("participants.tsv", "facts.tsv"):
        (folder / name).write_bytes(content)

    def act() -> None:
        from ichnos.cli.inputs.facts import read_facts
        from ichnos.formats import bids
        from ichnos.formats.bids_check import validate

        validate(folder)
        if rng.random() < 0.5:
            bids.read_cohort(folder)
        else:
            read_facts(folder / "facts.tsv")

    return act


# ---- what ichnos itself writes, and what it imports


@lru_cache(maxsize=1)
def model_files() -> tuple[dict[str, Any], bytes]:
    """Return the manifest of a tiny model as JSON, and bytes that stand for its weights."""
    import hashlib

    from ichnos.models import Manifest, NetworkSpec, Preprocessing, Provenance, TargetSpec

    weights = bytes(range(256))
    manifest = Manifest(
        name="tiny",
        version="1",
        limits=("none",),
        network=NetworkSpec(name="unet", arguments={"input_channels": 1, "num_classes": 1}),
        preprocessing=Preprocessing(spacing_mm=(6, 6, 6), windows_hu=((0, 80),), patch=(16, 16, 16)),
        targets=(TargetSpec(name="ICH"),),
        provenance=Provenance(
            code_version="0", command="", seeds=(0,), steps=0, data={}, hardware="", trained="2026-01-01"
        ),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
    )
    return json.loads(manifest.model_dump_json()), weights


def model_folders(rng: np.random.Generator, folder: Path) -> Action:
    """Change values of model.json and bytes of the weights."""
    manifest, weights = model_files()
    (folder / "model.json").write_bytes(as_text(mutated(manifest, rng), rng))
    (folder / "model.safetensors").write_bytes(damaged(weights, rng) if rng.random() < 0.3 else weights)

    def act() -> None:
        from ichnos.models import load_model

        load_model(folder)

    return act


def ledgers(rng: np.random.Generator, folder: Path) -> Action:
    """Damage settings, ledger and notes of a run that was finished, and run it again."""
    from builders.run_tasks import things, work
    from ichnos.runs import apply

    def again() -> object:
        return apply(work, things(2), out=folder, settings={"a": 1}, name="work", progress=False)

    again()
    home = folder / ".ichnos" / "work"
    for name in rng.choice(["settings.json", "ledger.jsonl"], int(rng.integers(1, 3))):
        (home / name).write_bytes(damaged((home / name).read_bytes(), rng))
    if rng.random() < 0.5:
        (home / "ready" / "x" / "out").mkdir(parents=True)
        (home / "ready" / "x" / "item.json").write_bytes(as_text(mutated({"id": "t00", "row": {}}, rng), rng))
    return again


_PLANS = {
    "dataset_name": "Dataset001_X",
    "configurations": {
        "2d": {"spacing": [1, 1], "patch_size": [32, 32]},
        "3d_fullres": {
            "inherits_from": "2d",
            "spacing": [5, 1, 1],
            "patch_size": [16, 32, 32],
            "normalization_schemes": ["CTNormalization"],
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 2,
                    "features_per_stage": [4, 8],
                    "strides": [[1, 1, 1], [1, 2, 2]],
                },
            },
        },
    },
    "foreground_intensity_properties_per_channel": {"0": {"mean": 1, "std": 1}},
}


def plans(rng: np.random.Generator, folder: Path) -> Action:
    """Change values of the plans of another program's model that is to be imported."""
    content = json.loads(json.dumps(_PLANS))
    if rng.random() < 0.1:
        content["configurations"]["3d_fullres"]["inherits_from"] = "3d_fullres"
    (folder / "plans.json").write_bytes(as_text(mutated(content, rng), rng))
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "ICH": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_bytes(as_text(mutated(dataset, rng), rng))

    def act() -> None:
        from ichnos.formats.nnunet import read_dataset
        from ichnos.learning.nnunet.plans import dataset_of, plans_of, read_object

        plans_of(read_object(folder / "plans.json"), "3d_fullres", source="plans.json")
        dataset_of(read_object(folder / "dataset.json"), source="dataset.json")
        read_dataset(folder, "haematoma")

    return act


KINDS: dict[str, Maker] = {
    "DICOM bytes": dicom_bytes,
    "DICOM fields": dicom_fields,
    "DICOM geometry": dicom_geometry,
    "DICOM syntaxes": dicom_syntaxes,
    "functional groups": functional_groups,
    "zips": zips,
    "DICOMDIR": dicomdirs,
    "NIfTI": niftis,
    "sidecars": sidecars,
    "tables": tables,
    "model folders": model_folders,
    "ledgers": ledgers,
    "plans for import": plans,
}
