"""Folders as version 0.1.0 wrote them, by hand: models, cohorts and readings open; open runs are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ichnos
from builders.readable_head import TARGETS, head
from builders.run_tasks import things, work
from builders.tiny_model import NETWORK
from ichnos import networks
from ichnos.audit.readings import readings_by_scan
from ichnos.errors import UsageError
from ichnos.formats import bids, nifti
from ichnos.inference import Predictor
from ichnos.learning.loop.checkpoints import CHECKPOINT, TrainingKey, resume
from ichnos.learning.loop.settings import LoopSettings
from ichnos.models import NetworkSpec, load_model
from ichnos.models.store import sha256
from ichnos.reading.read import read_scan, volume_digest
from ichnos.runs import Ledger, apply, settings_hash
from ichnos.volume import Volume

OLD = "0.1.0"


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def old_model(folder: Path) -> Path:
    """Write weights and the model.json of 0.1.0, which knew no recentred HU."""
    folder.mkdir(parents=True)
    network = networks.build(NETWORK.name, **NETWORK.arguments)
    biases = [parameter for parameter in network.parameters() if parameter.shape == (len(TARGETS),)]
    with torch.no_grad():
        biases[-1] -= 6  # all is brain and nothing else, so that a reading goes on to the end
        biases[-1][TARGETS.index("brain")] += 12
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    return write_json(
        folder / "model.json",
        {
            "format": "ichnos-model-1",
            "name": "ours",
            "version": "0.1",
            "intended_use": "Research use only. Not a medical device.",
            "limits": ["Trained on simulated patients only; it has never seen a real scan."],
            "network": {"name": NETWORK.name, "arguments": NETWORK.arguments},
            "preprocessing": {
                "spacing_mm": [6.0, 6.0, 6.0],
                "windows_hu": [[-100.0, 100.0]],
                "patch": [32, 32, 32],
                "z_score": [],
                "axes": "xyz",
            },
            "targets": [{"name": n, "kind": "mask", "threshold": 0.5, "group": "anatomy"} for n in TARGETS],
            "activation": "sigmoid",
            "provenance": {
                "code_version": OLD,
                "command": "ichnos train",
                "seeds": [0],
                "steps": 10,
                "data": {"cohort": "ab" * 32},
                "hardware": "1 CPU core(s), x86_64",
                "trained": "2026-11-22",
                "validation": {"median Dice, brain": 0.9},
                "parents": [],
            },
            "weights_sha256": sha256(folder / "model.safetensors"),
            "refines": "",
        },
    ).parent


def old_cohort(root: Path) -> Volume:
    """Write a cohort of one patient with the ground truth of a haematoma; return the CT."""
    ct = Volume(np.full((6, 6, 4), 30, np.int16), np.diag([4.0, 4.0, 5.0, 1.0]))
    who = root / "sub-001" / "ses-baseline" / "ct"
    truth = root / "derivatives" / "truth" / "sub-001" / "ses-baseline"
    for folder in (who, truth):
        folder.mkdir(parents=True)
    nifti.save(ct, who / "sub-001_ses-baseline_ct.nii.gz")
    blood = ct.with_array((ct.array > 0).astype(np.uint8))
    nifti.save(blood, truth / "sub-001_ses-baseline_label-haematoma_dseg.nii.gz")
    write_json(who / "sub-001_ses-baseline_ct.json", {"Modality": "CT", "SliceStepsMillimetres": [5.0]})
    made = [{"Name": "ichnos", "Version": OLD}]
    described = {
        "Name": "virtual patients",
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "GeneratedBy": made,
    }
    write_json(root / "dataset_description.json", described)
    columns, row = ("participant_id", "centre", "split", "age_years"), ("sub-001", "A", "test", "76.3")
    (root / "participants.tsv").write_text(
        "\t".join(columns) + "\n" + "\t".join(row) + "\n", encoding="utf-8"
    )
    return ct


def old_reading(folder: Path, input_sha256: str) -> None:
    """Write the reading.json of 0.1.0, which knew no recalibration by a site."""
    measure = {"name": "ich_volume", "label": "Intracerebral haematoma", "value": 28.457, "unit": "mL"}
    interval = {"low": 23.578, "high": 43.855, "interval": "held in 80% of 29 patients", "reason": ""}
    finding = {"target": "haematoma", "status": "read", "sentence": "Blood was found.", "masks": ["ICH"]}
    provenance = {
        "code_version": OLD,
        "model_name": "ichnos-multi",
        "model_version": "0.1",
        "model_sha256": "ab" * 32,
        "refinement_sha256": "cd" * 32,
        "input_sha256": input_sha256,
        "backend": "openvino",
    }
    content = {
        "schema_version": "ichnos-reading-1",
        "use": "Research use only. Not a medical device; not for diagnosis.",
        "name": "sub-001_ses-baseline_ct",
        "status": "read",
        "findings": [{**finding, "measures": [{**measure, **interval}]}],
        "quality": [{"name": "modality", "level": "pass", "text": "it is CT", "value": None, "unit": ""}],
        "warnings": [],
        "limits": [],
        "facts": {},
        "provenance": provenance,
        "refusal": "",
        "masks": {"ICH": "ICH.nii.gz"},
        "files": {"report": "report.html"},
    }
    write_json(folder / "reading.json", content)


def old_run(out: Path, name: str, settings: dict[str, object], finished: str) -> None:
    """Write the ledger of a run that 0.1.0 began, and in which one item is finished."""
    home, key = out / ".ichnos" / name, settings_hash(settings)
    write_json(home / "settings.json", {"ichnos": OLD, "hash": key, "settings": settings})
    at = "2026-11-22T12:00:00.000+00:00"
    done = {"settings": key, "started": at, "seconds": 1.0, "worker": "a:1", "row": {"letters": 3}}
    lines = [
        {"event": "started", "id": finished, "at": at},
        {"event": "finished", "id": finished, "at": at, **done},
    ]
    (home / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_the_version_is_newer() -> None:
    assert [int(part) for part in ichnos.__version__.split(".")] > [int(part) for part in OLD.split(".")]


def test_a_model_opens_with_what_0_1_0_did_not_know_left_out(tmp_path: Path) -> None:
    model = load_model(old_model(tmp_path / "model"))
    assert model.manifest.provenance.code_version == OLD
    assert model.manifest.preprocessing.recentred_hu is None
    assert model.refinement() is None
    with torch.no_grad():
        assert model.network()(torch.zeros(1, 1, 16, 16, 16)).shape[1] == len(TARGETS)


def test_a_scan_is_read_by_the_folder_of_a_model_of_0_1_0(tmp_path: Path) -> None:
    folder = old_model(tmp_path / "model")
    predictor = Predictor(load_model(folder), backend="torch", threads=1)
    reading = read_scan(head(), predictor, only=["leukoaraiosis"])
    assert reading.record.status == "read"
    assert reading.record.provenance is not None
    assert reading.record.provenance.model_sha256 == sha256(folder / "model.safetensors")
    assert reading.masks is not None
    assert reading.masks.brain.array.any()


def test_a_cohort_opens_with_exams_targets_and_facts(tmp_path: Path) -> None:
    old_cohort(tmp_path)
    (patient,) = bids.read_cohort(tmp_path).patients
    assert (patient.id, patient.centre, patient.split) == ("001", "A", "test")
    assert (patient.facts["age_years"], set(patient.exams), set(patient.targets)) == (
        76.3,
        {"ct"},
        {"haematoma"},
    )


def test_a_stored_reading_is_found_by_the_scan_that_it_is_of(tmp_path: Path) -> None:
    ct = old_cohort(tmp_path / "cohort")
    old_reading(tmp_path / "readings" / "a", volume_digest(ct))
    (patient,) = bids.read_cohort(tmp_path / "cohort").patients
    (read,) = readings_by_scan(tmp_path / "readings")[volume_digest(nifti.load(patient.exam("ct")))]
    assert read.number("ich_volume") == pytest.approx(28.457)
    assert read.model == "ab" * 32 + "+" + "cd" * 32


def test_an_open_run_with_the_same_settings_is_resumed(tmp_path: Path) -> None:
    old_run(tmp_path, "work", {"a": 1}, finished="t00")
    summary = apply(work, things(2), out=tmp_path, settings={"a": 1}, name="work", progress=False)
    assert (len(summary), summary.done_now) == (2, 1)


def test_an_open_run_of_other_settings_names_the_version_that_began_it(tmp_path: Path) -> None:
    old_run(tmp_path, "work", {"a": 1}, finished="t00")
    with pytest.raises(UsageError, match=r"by ichnos 0\.1\.0 .* resume it with ichnos 0\.1\.0, or"):
        apply(work, things(2), out=tmp_path, settings={"a": 1, "limits": 2}, name="work", progress=False)
    assert [record["id"] for record in Ledger(tmp_path, "work").records()] == ["t00", "t00"]


def test_an_open_training_is_refused_in_words(tmp_path: Path) -> None:
    spec = NetworkSpec(name=NETWORK.name, arguments=NETWORK.arguments)
    old = {"network": spec.model_dump(), "steps": 4000, "batch": 2, "seed": 0, "data": "ab"}
    torch.save({"settings": json.dumps(old), "step": 10, "network": {}}, tmp_path / CHECKPOINT)
    key, loop = TrainingKey(network=spec, loop={"steps": 4000}, data="ab"), LoopSettings(steps=4000)
    with pytest.raises(UsageError, match="begun by another version of ichnos"):
        resume(key, loop, tmp_path, "cpu")
