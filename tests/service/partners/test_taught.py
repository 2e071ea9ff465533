"""Who taught a model says nothing of it: not in its evidence, not in a duel, not in its recalibration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from builders.audited import volume_score
from builders.tiny_model import tiny_model
from ichnos.audit.adaptation import identity_of, note_taught
from ichnos.audit.score import Score
from ichnos.errors import InputRefused
from ichnos.models import load_model
from ichnos.service.node import Node
from ichnos.service.partners.evidence import NodeEvidence, node_evidence
from ichnos.service.partners.judge import add_scores
from ichnos.service.partners.recalibrating import recalibrate_here
from ichnos.service.settings import NodeSettings, ReadingSettings
from ichnos.service.store.database import Database
from ichnos.service.store.tables import PairRow, StudyRow

OLD = "cd" * 32


@pytest.fixture
def node(database: Database, tmp_path: Path) -> Node:
    settings = NodeSettings(
        home=tmp_path / "node", reading=ReadingSettings(model=str(tmp_path / "node/models/new"))
    )
    tiny_model(settings.home / "models" / "new")
    return Node(settings, database, clock=lambda: 1_000.0)


def new_model(node: Node) -> str:
    return identity_of(load_model(node.settings.home / "models" / "new"))


def judged(node: Node, number: int, *models: str, person: str, truth: float = 24.0) -> None:
    """Add a pair whose follow-up other people outlined, under these models."""
    exam = replace(volume_score(number, 20, truth), judge="exam")
    scores: list[Score] = [replace(exam, model=model) for model in models]
    with node.database.transaction() as session:
        times = {"first_image_at": 0.0, "last_image_at": 0.0, "patient_id": person}
        both = [StudyRow(uid=f"1.{number}.{k}", state="ready", **times) for k in (1, 2)]
        session.add_all(both)
        session.flush()
        pair = PairRow(ct_study_id=both[0].id, partner_study_id=both[1].id, found_at=0.0)
        session.add(pair)
        session.flush()
        add_scores(session, pair.id, scores, now=1.0)


def duelled(found: NodeEvidence) -> list[object]:
    """Return how many pairs the table of champion and challenger compares."""
    (table,) = [table for table in found.evidence.tables if table.name == "duel"]
    return [row[1] for row in table.rows]


def test_those_who_taught_are_left_out_of_the_challenger_s_evidence_and_of_the_duel(node: Node) -> None:
    new = new_model(node)
    for number in range(6):
        judged(node, number, OLD, new, person=f"P{number}")
    assert duelled(node_evidence(node, champion=OLD, challenger=new)) == [6]
    note_taught(node.settings.home / "models" / "new", ["p0", "p1"])
    assert duelled(node_evidence(node, champion=OLD, challenger=new)) == [4]
    found = node_evidence(node, champion=new)
    assert (found.evidence.patients, found.left_out) == (4, 2)
    of_old = node_evidence(node, champion=OLD)  # whom they did not teach
    assert (of_old.evidence.patients, of_old.left_out) == (6, 0)


def test_another_scan_of_the_same_person_is_left_out_too(node: Node) -> None:
    new = new_model(node)
    judged(node, 0, new, person="P0")
    judged(node, 1, new, person="P0")  # came back: another plain CT, another id
    judged(node, 2, new, person="P2")
    judged(node, 3, new, person="")  # removed since: nobody's
    note_taught(node.settings.home / "models" / "new", ["p0"])
    found = node_evidence(node, champion=new)
    assert (found.evidence.patients, found.left_out) == (2, 2)


def test_a_model_is_not_recalibrated_by_those_who_taught_it(node: Node) -> None:
    new = new_model(node)
    for number in range(40):
        judged(node, number, new, person=f"P{number}", truth=24.0 + number % 5)
    note_taught(node.settings.home / "models" / "new", [f"p{number}" for number in range(25)])
    with pytest.raises(InputRefused, match="20 pairs of a quantity are needed"):
        recalibrate_here(node, actor="ann")


def test_a_model_folder_that_is_damaged_does_not_hide_the_page(node: Node) -> None:
    new = new_model(node)
    judged(node, 0, new, person="P0")
    folder = node.settings.home / "models" / "new"
    note_taught(folder, ["p0"])
    (folder / "model.safetensors").write_bytes(b"cut")
    assert node_evidence(node, champion=new).evidence.patients == 1
