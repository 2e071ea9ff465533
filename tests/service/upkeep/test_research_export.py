"""The research export: a cohort that `train` and `evaluate` take, in which nobody can be recognised."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from sqlalchemy import select

from builders.diffusion_series import build_diffusion
from builders.head import head_hu
from builders.outlines import drawn_by
from builders.read_node import ACCESSION, BORN, NAME, PATIENT, made_study, node_that_reads, read_here
from builders.series import Quirks, build_series
from ichnos.audit.outlines import reader_pseudonym
from ichnos.errors import UsageError
from ichnos.evidence.pack.readings import holds_readings
from ichnos.formats import nifti
from ichnos.formats.bids import find_target, read_cohort, read_gradients
from ichnos.formats.bids_check import validate
from ichnos.formats.dicom import open_dicom
from ichnos.reading import Record
from ichnos.service.node import Node
from ichnos.service.partners.finder import PairFinder
from ichnos.service.store import studies
from ichnos.service.store.images import store_image
from ichnos.service.store.tables import EventRow, StudyRow
from ichnos.service.upkeep.export import export_studies, pseudonym_of

SECRETS = (*NAME.split("^"), PATIENT, BORN, ACCESSION, "ZQHOSPITAL", "20260103")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Read the CT of a patient, one of the next day, and one of months later."""
    folder = tmp_path_factory.mktemp("export")
    opened = node_that_reads(folder)
    for k, date in enumerate(("20260103", "20260104", "20260501")):
        read_here(opened, made_study(folder / date, date=date, seed=date), now=100.0 * k)
    with opened.database.snapshot() as session:
        assert session.execute(select(StudyRow.state)).scalars().all() == ["ready"] * 3
    yield opened
    opened.database.close()


@pytest.fixture(scope="module")
def exported(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "out"
    result = export_studies(node, folder, actor="ann", centre="north")
    assert (result.patients, result.exams) == (1, 2)
    assert list(result.left_out) == [3]
    return folder


def test_the_export_is_a_cohort_with_its_followup_and_readings(exported: Path) -> None:
    assert [finding for finding in validate(exported) if finding.level == "error"] == []
    (patient,) = read_cohort(exported)
    assert set(patient.exams) == {"ct", "followup"}
    assert (patient.centre, patient.facts["days_to_followup"]) == ("north", 1.0)
    assert patient.targets == {}  # a prediction never becomes a label by accident
    named = {f"sub-{patient.id}_ses-{session}" for session in ("baseline", "followup")}
    assert {folder.name for folder in (exported / "readings").iterdir()} == named
    assert holds_readings(exported / "readings")


def test_masks_lie_on_the_grid_of_the_ct_and_are_found_by_name(exported: Path) -> None:
    (patient,) = read_cohort(exported, pipelines=("ichnos",))
    file = find_target(exported, patient.id, "haematoma", ("ichnos",))
    assert file is not None
    labels, ct = nifti.load(file), nifti.load(patient.exam("ct"))
    assert labels.shape == ct.shape
    assert np.allclose(labels.affine, ct.affine)
    record = Record.model_validate_json(
        (exported / "readings" / f"sub-{patient.id}_ses-baseline" / "reading.json").read_bytes()
    )
    mask = nifti.load(exported / "readings" / f"sub-{patient.id}_ses-baseline" / record.masks["ICH"])
    assert np.array_equal(labels.array == 1, mask.reoriented(labels.orientation).array > 0)


def test_no_file_and_no_name_tells_who_it_was(exported: Path) -> None:
    assert what_tells(exported) == []


def what_tells(folder: Path) -> list[str]:
    """Return the files that hold a secret, or are named by one, and those of kinds that are not exported."""
    found = [path.name for path in folder.rglob("*") if path.suffix in (".dcm", ".html")]
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        name = str(path.relative_to(folder))
        found += [name for secret in SECRETS if secret in name or secret.encode() in content]
    return found


def test_a_patient_keeps_the_pseudonym_and_the_event_names_the_asker(
    node: Node, exported: Path, tmp_path: Path
) -> None:
    export_studies(node, tmp_path / "again", study_ids=[1], actor="bob")
    assert [p.id for p in read_cohort(tmp_path / "again")] == [p.id for p in read_cohort(exported)]
    assert pseudonym_of(b"another key", PATIENT) not in [p.id for p in read_cohort(exported)]
    with node.database.snapshot() as session:
        asked = session.execute(select(EventRow.actor).where(EventRow.kind == "exported")).scalars().all()
    assert asked == ["ann", "ann", "bob"]
    assert (node.settings.home / "export.key").stat().st_mode & 0o077 == 0


def test_an_export_needs_a_new_folder_and_a_study(node: Node, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UsageError, match="is not empty"):
        export_studies(node, tmp_path, actor="ann")
    with pytest.raises(UsageError, match="no study was chosen"):
        export_studies(node, tmp_path / "new", study_ids=[99], actor="ann")


def test_outlines_that_people_sent_back_are_manual_labels_under_pseudonyms(tmp_path: Path) -> None:
    node, images = node_that_reads(tmp_path), made_study(tmp_path / "ct")
    scan = open_dicom(tmp_path / "ct")
    drawn = [drawn_by(scan, tmp_path / f"{n}.dcm", f"ZQREADER^{n}", stop=34 + n) for n in (0, 2)]
    other = drawn_by(scan, tmp_path / "other.dcm", "ZQREADER^9", stop=34, name="ventricles")
    read_here(node, [*images, *(dcmread(file) for file in (*drawn, other))])
    result = export_studies(node, tmp_path / "out", actor="ann")
    node.database.close()
    assert (result.exams, dict(result.left_out)) == (1, {})
    (patient,) = read_cohort(tmp_path / "out")
    assert patient.targets["haematoma"].parts[-4] == "manual"  # before any prediction
    readers = sorted((tmp_path / "out" / "derivatives").glob("reader*"))
    assert len(readers) == 2
    assert not {reader.name for reader in readers} & {reader_pseudonym(f"ZQREADER^{n}") for n in (0, 2)}
    labels = nifti.load(patient.targets["haematoma"])
    assert labels.same_grid(nifti.load(patient.exam("ct")))
    assert set(np.unique(labels.array)) == {0, 1}
    for path in (tmp_path / "out").rglob("*.json"):
        assert "ZQREADER" not in path.read_text(encoding="utf-8")


def test_mri_that_the_node_keeps_becomes_a_partner_exam(node: Node, tmp_path: Path) -> None:
    header = {"patient_name": NAME, "patient_id": PATIENT, "date": "20260105", "intercept": 0.0}
    for description in ("t2_FLAIR_ax", "localizer"):
        quirks = Quirks(
            steps_mm=(5.0,) * 11,
            header={**header, "description": description, "seed": description},
            tags={"Modality": "MR", "InstitutionName": "ZQHOSPITAL"},
        )
        for file in build_series(lambda mm: np.maximum(head_hu()(mm), 0), tmp_path / description, quirks):
            image = store_image(node.settings.home, file)
            with node.database.transaction() as session:
                studies.register_image(session, image, now=500.0, source="MR1")
    build_diffusion(tmp_path / "dwi", header={**header, "study_seed": "ep2d"})
    for file in sorted((tmp_path / "dwi").rglob("*.dcm")):
        image = store_image(node.settings.home, file)
        with node.database.transaction() as session:
            studies.register_image(session, image, now=500.0, source="MR1")
    while PairFinder(node).step():
        pass
    result = export_studies(node, tmp_path / "out", actor="ann")
    (patient,) = read_cohort(tmp_path / "out")
    assert set(patient.exams) == {"ct", "followup", "flair", "diffusion"}
    assert (result.patients, result.exams) == (1, 4)
    assert len(read_gradients(patient.exam("diffusion"))[0]) == 7
    flair = nifti.load(patient.exam("flair"))
    assert min(flair.shape) == 12
    assert flair.array.max() > 100
    assert [finding for finding in validate(tmp_path / "out") if finding.level == "error"] == []
    assert what_tells(tmp_path / "out") == []
