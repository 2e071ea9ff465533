"""The process that fine-tunes: a real training of a tiny model, resumed, refused in words, ended if told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

pytest.importorskip("sqlalchemy")
from builders.head import head_hu
from builders.outlines import drawn_by
from builders.series import Quirks, build_series
from builders.tiny_model import tiny_model
from builders.trainable_cohort import write_trainable_cohort
from ichnos.audit.adaptation import taught_by
from ichnos.audit.exams import exams_in
from ichnos.audit.pairing import PairWindows, episodes_of
from ichnos.cohort import Cohort, Split
from ichnos.formats.dicom import open_dicom
from ichnos.models import load_model
from ichnos.service.partners import tuning_process
from ichnos.service.partners.tuner import started
from ichnos.service.partners.tuning import note_progress, progress_in
from ichnos.service.partners.tuning_job import TuningJob, TuningOutcome, outcome_in
from ichnos.service.partners.tuning_process import carry_out
from ichnos.service.settings import FineTuningSettings

SPLITS: list[Split] = ["train"] * 19 + ["validation"] + ["test"]
DRAWN = {f"{k:02d}" for k in range(20)}


@pytest.fixture
def job(tmp_path: Path) -> TuningJob:
    work, image = tmp_path / "tuning", tmp_path / "a.dcm"
    work.mkdir()
    image.write_bytes(b"image")
    how = FineTuningSettings(steps=1)
    model = str(tiny_model(tmp_path / "tiny").folder)
    return TuningJob(work, "tiny-tuned", model, "haematoma", (image,), (), "salt", how)


@pytest.fixture
def pairings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the pairs be made heads; return how often they were asked for."""
    calls: list[str] = []

    def made(images: Path, readings: Path, root: Path, target: str, *, salt: str) -> Cohort:
        assert [file.name for file in images.iterdir()] == ["a.dcm"]
        calls.append(f"{target} {salt}")
        return write_trainable_cohort(root, SPLITS)

    monkeypatch.setattr(tuning_process, "learnable_cohort", made)
    return calls


def test_the_new_model_lies_in_the_work_folder_and_a_killed_process_is_resumed(
    job: TuningJob, pairings: list[str]
) -> None:
    carry_out(job)
    outcome = outcome_in(job.work)
    assert outcome is not None
    assert (outcome.refusal, outcome.patients) == ("", 20)
    assert "mean Dice on 1 validation pairs: ICH" in outcome.said
    assert taught_by(load_model(job.made).folder) == DRAWN
    assert progress_in(job.work) == {"stage": "training", "step": 1, "steps": 1}
    assert not (job.work / "images").exists()  # what names patients is gone
    carry_out(job)  # its outcome is known

    (job.work / "outcome.json").unlink()  # as if killed while it wrote the model
    (job.made / "model.safetensors").write_bytes(b"half")
    (job.work / "images").mkdir()
    checkpoint = next((job.work / "training").glob("*.pt"))
    before = checkpoint.stat().st_mtime_ns
    carry_out(replace(job, files=()))  # the images have been removed since
    assert outcome_in(job.work) == outcome
    assert load_model(job.made)
    assert checkpoint.stat().st_mtime_ns == before  # no step was taken again
    assert pairings == ["haematoma salt"]


def test_refusals_are_words_and_leave_no_model(job: TuningJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(images: Path, readings: Path, root: Path, target: str, *, salt: str) -> Cohort:
        return write_trainable_cohort(root, ["train", "validation"])

    monkeypatch.setattr(tuning_process, "learnable_cohort", few)
    for given, why in (
        (job, "2 pairs of the splits train and validation show haematoma; fine-tuning needs 20 or more"),
        (replace(job, files=()), "the images of all pairs have been removed"),
        (replace(job, target="infarct"), "infarct"),
    ):
        shutil.rmtree(job.work)
        job.work.mkdir()
        carry_out(given)
        outcome = outcome_in(job.work)
        assert outcome is not None
        assert why in outcome.refusal
        assert not job.made.exists()


def test_progress_that_is_half_written_or_not_there_is_none(tmp_path: Path) -> None:
    assert progress_in(tmp_path) == {}
    note_progress(tmp_path, "training", step=1, steps=9)
    assert progress_in(tmp_path)["step"] == 1
    (tmp_path / "progress.json").write_text("{")
    assert progress_in(tmp_path) == {}


def test_ids_of_who_teaches_are_those_of_the_scores(tmp_path: Path) -> None:
    """Each pair is judged in a folder of its own; who teaches is paired among all."""
    everything = tmp_path / "all"
    everything.mkdir()
    judged = set()
    small = {"shape": (40, 40), "pixel_mm": 5.5, "steps_mm": (10.0,) * 14}
    for person in ("A", "B"):
        own = tmp_path / person
        for day in ("20260301", "20260302"):
            header = {"date": day, "seed": f"{person}{day}", "patient_id": person}
            for file in build_series(head_hu(bleed_mm=10), own / day, Quirks(header=header, **small)):
                shutil.copyfile(file, everything / f"{person}{day}{file.name}")
        drawn_by(open_dicom(own / "20260301"), everything / f"{person}.dcm", "DOE^JANE", 40)
        judged |= {one.patient_id for one in episodes_of(exams_in(own).exams, PairWindows(), salt="salt")}
    root = tmp_path / "cohort"
    cohort = tuning_process.learnable_cohort(everything, tmp_path / "none", root, "haematoma", salt="salt")
    assert {patient.id for patient in cohort} == judged
    assert len(judged) == 2
    assert all("haematoma" in patient.targets for patient in cohort)


def test_the_worker_itself_loads_no_pytorch() -> None:
    code = "import sys, ichnos.service.partners.tuner; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_real_process_leaves_its_outcome_and_ends_when_told(job: TuningJob) -> None:
    process = started(replace(job, files=()))
    process.join(60)
    assert process.exitcode == 0
    outcome = outcome_in(job.work)
    assert isinstance(outcome, TuningOutcome)
    assert "removed" in outcome.refusal
    (job.work / "outcome.json").unlink()
    write_trainable_cohort(job.work / "cohort", SPLITS)
    (job.work / "cohort.ready").touch()
    endless = started(replace(job, how=FineTuningSettings(steps=100_000)))
    ends = time.monotonic() + 60
    while progress_in(job.work).get("step", 0) < 2 and time.monotonic() < ends:
        time.sleep(0.1)
    endless.terminate()
    endless.join(10)
    assert endless.exitcode == -15
    assert json.loads((job.work / "progress.json").read_text())["step"] >= 2
    assert outcome_in(job.work) is None


_PARENT = """
import sys, time
from pathlib import Path
from ichnos.service.partners.tuner import started
from ichnos.service.partners.tuning_job import TuningJob
from ichnos.service.settings import FineTuningSettings
if __name__ == "__main__":
    work, model = map(Path, sys.argv[1:])
    how = FineTuningSettings(steps=100_000)
    print(started(TuningJob(work, "new", str(model), "haematoma", (), (), "", how)).pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_no_process_behind(job: TuningJob, tmp_path: Path) -> None:
    write_trainable_cohort(job.work / "cohort", SPLITS)
    (job.work / "cohort.ready").touch()
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    command = [sys.executable, str(script), str(job.work), job.model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        ends = time.monotonic() + 60
        while not progress_in(job.work) and time.monotonic() < ends:
            time.sleep(0.1)
        assert child.nice() == 19
        parent.kill()
        child.wait(20)
    assert not child.is_running()
