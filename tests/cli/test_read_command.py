"""`ichnos read`: every kind of place, refusals as results, the same bytes twice, and a run that is killed
and goes on.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ichnos
from builders.head import head_hu
from builders.series import Quirks, build_series
from builders.tiny_model import tiny_model
from ichnos.api import save_reading
from ichnos.cli.main import run
from ichnos.errors import UsageError
from ichnos.formats import nifti, open_scan
from ichnos.formats.dicom_seg import read_seg
from ichnos.formats.dicom_sr import read_sr
from ichnos.volume import Volume

HEAD = Quirks(shape=(64, 64), pixel_mm=4.0, steps_mm=(5.0,) * 31)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny").folder


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    build_series(head_hu(bleed_mm=14), folder / "head", HEAD)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def table(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def hashes(out: Path) -> dict[str, str]:
    files = [p for p in out.rglob("*") if p.is_file() and ".ichnos" not in p.parts]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def nifti_head(file: Path, seed: int = 0) -> Path:
    """Save a small made head; another seed, another clot."""
    grid = Volume(
        np.zeros((48, 60, 34), np.float32),
        np.array([[4.0, 0, 0, -94], [0, 4, 0, -118], [0, 0, 5, -80], [0, 0, 0, 1]]),
    )
    mm = grid.world(np.indices(grid.shape).transpose(1, 2, 3, 0))
    nifti.save(grid.with_array(head_hu(bleed_mm=10 + seed)(mm).astype(np.int16)), file)
    return file


def test_a_dicom_study_gives_every_file_and_the_same_bytes_again(
    series: Path, model: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        assert (
            run(
                [
                    "read",
                    "--keep-names",
                    str(series),
                    "-o",
                    str(tmp_path / name),
                    "--model",
                    str(model),
                    "--json",
                ]
            )
            == 0
        )
    (folder,) = [p for p in (tmp_path / "a").iterdir() if p.is_dir() and p.name != ".ichnos"]
    names = {p.name for p in folder.iterdir()}
    assert {
        "reading.json",
        "report.html",
        "segmentation.dcm",
        "measurements.dcm",
        "ICH.nii.gz",
        "tract_left.nii.gz",
    } <= names
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    record = json.loads((folder / "reading.json").read_text())
    assert record["status"] == "read"
    assert set(record["masks"].values()) | set(record["files"].values()) | {"reading.json"} == names
    scan = open_scan(series)
    segments = read_seg(folder / "segmentation.dcm", scan)
    saved = nifti.load(folder / "brain.nii.gz")
    assert saved.same_grid(scan.volume)
    assert (segments["brain"].array == (saved.array > 0)).all()
    told = read_sr(folder / "measurements.dcm")
    assert any(sentence == record["findings"][0]["sentence"] for sentence in told.comments)


def test_a_header_that_takes_no_seg_does_not_cost_the_reading(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_series(head_hu(), tmp_path / "head", replace(HEAD, tags={"StudyInstanceUID": None}))
    assert run(["read", str(tmp_path / "head"), "-o", str(tmp_path / "out"), "--model", str(model)]) == 0
    why = "DICOM SEG and SR were not written: the input has no SOPInstanceUID or no StudyInstanceUID"
    assert f"warning: {why}" in capsys.readouterr().out
    (row,) = table(tmp_path / "out")
    assert (row["status"], why in row["warnings"]) == ("read", True)
    folder = tmp_path / "out" / row["id"]
    record = json.loads((folder / "reading.json").read_text())
    assert record["files"] == {"report": "report.html"}
    assert (folder / "brain.nii.gz").is_file()
    assert why in (folder / "report.html").read_text()
    assert not list(folder.glob("*.dcm"))


def test_from_python_a_path_a_scan_and_a_nibabel_image_are_read_alike(
    series: Path, model: Path, tmp_path: Path
) -> None:
    scan = open_scan(series)
    readings = [
        ichnos.read(given, model=model, only=["haematoma"])
        for given in (series, scan, scan.volume.to_nibabel())
    ]
    volumes = [r.record.finding("haematoma").measure("ich_volume").value for r in readings]
    assert volumes[0] == volumes[1] == volumes[2]
    assert {r.record.provenance.input_sha256 for r in readings} == {
        readings[0].record.provenance.input_sha256
    }  # type: ignore[union-attr]
    saved = save_reading(readings[2], tmp_path / "saved")
    assert (saved / "report.html").is_file()
    assert not list(saved.glob("*.dcm")), "a nibabel image has no DICOM series to belong to"
    refused = ichnos.read(tmp_path / "saved" / "ICH.nii.gz", model=model)
    assert refused.record.status == "refused"
    with pytest.raises(UsageError, match="cannot be read"):
        ichnos.read(3, model=model)


def test_a_folder_of_mixed_scans_reads_the_good_and_says_why_not_the_bad(
    series: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "scans"
    place.mkdir()
    nifti_head(place / "good.nii.gz")
    nifti.save(Volume(np.zeros((20, 20, 20), np.int16), np.diag([9.0, 9, 9, 1])), place / "flat.nii.gz")
    (place / "broken.nii.gz").write_bytes(b"not an image")
    shutil.copytree(series, place / "study")
    out = tmp_path / "out"
    assert run(["read", "--keep-names", str(place), "-o", str(out), "--model", str(model)]) == 2
    rows = {row["id"]: row for row in table(out)}
    assert len(rows) == 4
    assert [rows[name]["status"] for name in ("good", "flat", "broken")] == ["read", "refused", "refused"]
    assert "same value" in rows["flat"]["reason"]
    refused = json.loads((out / "flat" / "reading.json").read_text())
    assert {finding["status"] for finding in refused["findings"]} == {"could not look"}
    assert "was not read" in (out / "flat" / "report.html").read_text()
    assert not list((out / "flat").glob("*.nii.gz"))
    assert "2 of 4 scans read" in capsys.readouterr().out


def test_only_what_was_asked_is_read(model: Path, tmp_path: Path) -> None:
    file = nifti_head(tmp_path / "x.nii.gz")
    assert (
        run(
            [
                "read",
                "--keep-names",
                str(file),
                "-o",
                str(tmp_path / "o"),
                "--model",
                str(model),
                "--only",
                "tract,haematoma",
                "--json",
            ]
        )
        == 0
    )
    record = json.loads((tmp_path / "o" / "x" / "reading.json").read_text())
    assert [finding["target"] for finding in record["findings"]] == ["haematoma", "tract"]
    assert (
        run(
            [
                "read",
                "--keep-names",
                str(file),
                "-o",
                str(tmp_path / "o2"),
                "--model",
                str(model),
                "--only",
                "liver",
            ]
        )
        == 3
    )


def test_a_cohort_gives_every_ct_of_every_patient(model: Path, tmp_path: Path) -> None:
    from ichnos.cohort import Patient
    from ichnos.formats import bids

    root = tmp_path / "cohort"
    bids.write_cohort([Patient("01"), Patient("02")], root, name="made")
    nifti_head(root / "sub-01" / "ses-baseline" / "ct" / "sub-01_ses-baseline_ct.nii.gz")
    nifti_head(root / "sub-01" / "ses-followup" / "ct" / "sub-01_ses-followup_ct.nii.gz", seed=3)
    assert (
        run(["read", "--keep-names", str(root), "-o", str(tmp_path / "out"), "--model", str(model), "--json"])
        == 0
    )
    assert [row["id"] for row in table(tmp_path / "out")] == ["sub-01_ses-baseline", "sub-01_ses-followup"]


def test_what_is_known_besides_the_scan_reaches_the_reading_and_decides_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out, facts = nifti_head(tmp_path / "x.nii.gz"), tmp_path / "out", tmp_path / "facts.tsv"
    facts.write_text("id\tage_years\tonset_to_ct_h\tgcs\nx\t71\t2.5\tn/a\n")
    arguments = [
        "read",
        "--keep-names",
        str(file),
        "-o",
        str(out),
        "--model",
        str(model),
        "--json",
        "--facts",
        str(facts),
    ]
    assert run(arguments) == 0
    assert json.loads((out / "x" / "reading.json").read_text())["facts"] == {
        "age_years": 71.0,
        "onset_to_ct_h": 2.5,
    }
    for table_text, code, word in (
        ("id\tgcs\nx\t3\n", 3, "settings"),  # other facts, another reading: not into the same folder
        ("id\tgcs\ny\t9\n", 3, "no scan has that id"),
        ("id\tgcs\nx\t99\n", 2, "from 3 to 15"),
        ("id\tgcs\nx\t9\nx\t8\n", 2, "twice"),
        ("id\tshoe_size\nx\t9\n", 3, "shoe_size"),
    ):
        capsys.readouterr()
        facts.write_text(table_text)
        assert run(arguments) == code, table_text
        assert word in capsys.readouterr().err
    assert run([*arguments[:-1], str(tmp_path / "none.tsv")]) == 3


def test_a_cohort_tells_facts_of_its_patients(model: Path, tmp_path: Path) -> None:
    from ichnos.cohort import Patient
    from ichnos.formats import bids

    root = tmp_path / "cohort"
    told = {"age_years": 80.0, "onset_to_ct_h": 4.0, "centre_code": "7"}
    bids.write_cohort([Patient("01", facts=told)], root, name="made")
    for session in ("baseline", "followup"):
        nifti_head(root / "sub-01" / f"ses-{session}" / "ct" / f"sub-01_ses-{session}_ct.nii.gz")
    assert (
        run(
            [
                "read",
                "--keep-names",
                str(root),
                "-o",
                str(tmp_path / "out"),
                "--model",
                str(model),
                "--only",
                "tract",
                "--json",
            ]
        )
        == 0
    )
    facts = {
        s: json.loads((tmp_path / "out" / f"sub-01_ses-{s}" / "reading.json").read_text())["facts"]
        for s in ("baseline", "followup")
    }
    assert facts == {"baseline": {"age_years": 80.0, "onset_to_ct_h": 4.0}, "followup": {"age_years": 80.0}}
    bids.write_cohort([Patient("01", facts=told | {"gcs": "awake"})], tmp_path / "odd", name="made")
    assert (
        run(
            [
                "read",
                "--keep-names",
                str(tmp_path / "odd"),
                "-o",
                str(tmp_path / "none"),
                "--model",
                str(model),
                "--json",
            ]
        )
        == 2
    )
    assert not (tmp_path / "none").exists()


def test_facts_given_in_python_are_used_and_checked(model: Path, tmp_path: Path) -> None:
    import ichnos
    from ichnos.errors import InputRefused, UsageError

    file = nifti_head(tmp_path / "x.nii.gz")
    assert ichnos.read(file, model=model, only=["tract"], facts={"gcs": 14}).record.facts == {"gcs": 14.0}
    with pytest.raises(UsageError, match="onset"):
        ichnos.read(file, model=model, facts={"onset": 2})
    with pytest.raises(InputRefused, match="from 3 to 15"):
        ichnos.read(file, model=model, facts={"gcs": 99})


def test_a_second_file_of_the_same_name_is_never_shown_the_first_ones_reading(
    model: Path, tmp_path: Path
) -> None:
    one, other = nifti_head(tmp_path / "a" / "ct.nii.gz"), nifti_head(tmp_path / "b" / "ct.nii.gz", seed=4)
    arguments = ["-o", str(tmp_path / "out"), "--model", str(model), "--json"]
    assert run(["read", "--keep-names", str(one), *arguments]) == 0
    assert run(["read", "--keep-names", str(other), *arguments]) == 3
    assert (
        run(
            [
                "read",
                "--keep-names",
                str(one),
                str(other),
                "-o",
                str(tmp_path / "both"),
                "--model",
                str(model),
                "--json",
            ]
        )
        == 0
    )
    assert len({row["id"] for row in table(tmp_path / "both")}) == 2


def test_bad_usage_is_named_before_anything_is_read(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = nifti_head(tmp_path / "x.nii.gz"), tmp_path / "out"
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = bytearray((broken / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (broken / "model.safetensors").write_bytes(weights)
    for arguments, code, word in (
        ([str(tmp_path / "nowhere"), "--model", str(model)], 2, "does not exist"),
        ([str(file), "--model", str(broken)], 2, "damaged"),
        ([str(file), "--model", str(tmp_path)], 2, "is no model"),
        ([str(file), "--model", str(model), "--backend", "abacus"], 3, "abacus"),
        ([str(file), "--model", str(model), "--device", "cuda", "--backend", "openvino"], 3, "--device cuda"),
        ([str(file), "--model", str(model), "--threads", "0"], 3, "1 or more"),
    ):
        assert run(["read", "--keep-names", *arguments, "-o", str(out)]) == code, arguments
        assert word in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert run(["read", "--keep-names", str(file), "--model", str(model), "--pdf", "-o", str(out)]) == 3
    assert not out.exists()


def started(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start the command in a process group of its own."""
    code = "from ichnos.cli import main; main()"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, "read", "--keep-names", *arguments],
        env=environment,
        start_new_session=True,
    )


def test_a_killed_run_goes_on_and_nothing_is_lost_or_doubled(model: Path, tmp_path: Path) -> None:
    place = tmp_path / "scans"
    for k in range(5):
        nifti_head(place / f"s{k}.nii.gz", seed=k)
    arguments = [str(place), "--model", str(model), "--json", "--threads", "1"]
    out = tmp_path / "killed"
    process = started([*arguments, "-o", str(out)])
    deadline = time.monotonic() + 120
    while not (out / "s1" / "reading.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    assert not (out / "summary.csv").exists()
    assert run(["read", "--keep-names", *arguments, "-o", str(out), "--workers", "2"]) == 0
    assert run(["read", "--keep-names", *arguments, "-o", str(tmp_path / "whole")]) == 0
    assert hashes(out) == hashes(tmp_path / "whole")
    events = [
        json.loads(line) for line in (out / ".ichnos" / "read" / "ledger.jsonl").read_text().splitlines()
    ]
    assert sorted(e["id"] for e in events if e["event"] == "finished") == [f"s{k}" for k in range(5)]


def test_a_full_disk_is_said_and_leaves_nothing_half_written(model: Path, tmp_path: Path) -> None:
    file, out = nifti_head(tmp_path / "x.nii.gz"), tmp_path / "out"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); from ichnos.cli import main; main()"
    )
    arguments = [
        "read",
        "--keep-names",
        str(file),
        "-o",
        str(out),
        "--model",
        str(model),
        "--json",
        "--backend",
        "torch",
        "--threads",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    (row,) = json.loads(done.stdout)["scans"]
    assert row["status"] == "failed"
    assert "large" in row["reason"].lower()
    assert [p.name for p in out.iterdir()] == [".ichnos", "summary.csv"] or not (out / "x").exists()
    assert not list(out.rglob("*.nii.gz"))
    assert run([*arguments]) == 0, "with room again, the same command goes on"
    assert (out / "x" / "report.html").stat().st_size > 200_000


@pytest.mark.slow
def test_threads_and_workers_do_not_change_a_byte(model: Path, tmp_path: Path) -> None:
    scans = [str(nifti_head(tmp_path / f"{seed}.nii.gz", seed)) for seed in (0, 3)]
    settings = (("1", "1"), ("2", "1"), ("4", "1"), ("1", "2"))
    outs = []
    for threads, workers in settings:
        out = tmp_path / f"out-{threads}-{workers}"
        options = ["--threads", threads, "--workers", workers]
        assert run(["read", *scans, "-o", str(out), "--model", str(model), *options]) == 0
        outs.append({name: value for name, value in hashes(out).items() if not name.startswith("summary")})
    assert all(found == outs[0] for found in outs)
