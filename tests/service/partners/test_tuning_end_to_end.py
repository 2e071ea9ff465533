"""From the button to the shadow with nothing stood in for: DICOM images, people's outlines, a process."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
from builders.audited import volume_score
from builders.head import head_hu
from builders.outlines import drawn_by
from builders.series import Quirks, build_series
from builders.tiny_model import tiny_model
from ichnos.audit.adaptation import identity_of, taught_by
from ichnos.audit.exams import exams_in
from ichnos.audit.pairing import Episode, PairWindows, episodes_of, split_of
from ichnos.formats.dicom import open_dicom
from ichnos.models import load_model
from ichnos.service.node import Node, open_node
from ichnos.service.partners.evidence import node_evidence
from ichnos.service.partners.judge import SALT, add_scores
from ichnos.service.partners.tuner import FineTuner
from ichnos.service.partners.tuning import TuningStatus, tuning_status
from ichnos.service.settings import FineTuningSettings, NodeSettings, ReadingSettings
from ichnos.service.store import studies
from ichnos.service.store.images import store_image
from ichnos.service.store.options import keep_option
from ichnos.service.store.tables import PairRow, StudyRow
from service.web.visits import signed_in

PEOPLE = 25
DAYS = ("20260301", "20260302")


def exams_of_people(folder: Path) -> None:
    """Write two CTs of each person, and an outline of the first one; two ids are the same person."""
    for person in range(PEOPLE):
        for day in DAYS:
            header = {"date": day, "seed": f"{person} {day}", "patient_id": f"P{person}"}
            quirks = Quirks(shape=(40, 40), pixel_mm=5.5, steps_mm=(10.0,) * 14, header=header)
            seen = head_hu(bleed_mm=12, offset_hu=0.2 * max(person, 1))
            build_series(seen, folder / str(person) / day, quirks)
        scan = open_dicom(folder / str(person) / DAYS[0])
        drawn_by(scan, folder / str(person) / "outline.dcm", f"READER^{person}", 40)


def alone(episodes: Iterable[Episode]) -> list[Episode]:
    """Return the episodes of those who have one id."""
    return [episode for episode in episodes if episode.baseline.patient not in ("P0", "P1")]


def enough(episodes: Iterable[Episode]) -> bool:
    splits = [split_of(episode.patient_id) for episode in alone(episodes)]
    return len(splits) - splits.count("test") >= 20 and {"test", "validation"} <= set(splits)


def keep(node: Node, folder: Path, salt: str, episodes: Iterable[Episode], model: str) -> None:
    """Store the images as a node does, and the scores as its judge gives them."""
    with node.database.transaction() as session:
        keep_option(session, SALT, salt)
        for file in sorted(folder.rglob("*.dcm")):
            image = store_image(node.settings.home, file)
            studies.register_image(session, image, now=1.0, source="CT1")
        known = {(row.patient_id, row.study_date): row for row in session.query(StudyRow)}
        for row in known.values():
            row.state = "ready"
        for episode in episodes:
            ct, later = (known[episode.baseline.patient, day].id for day in DAYS)
            pair = PairRow(ct_study_id=ct, partner_study_id=later, found_at=0.0, state="judged")
            session.add(pair)
            session.flush()
            score = replace(volume_score(1, 4, 5), patient=episode.patient_id, partner="reader", model=model)
            own = replace(score, pair=f"{episode.patient_id}-reader", quantity="ich_volume", judge="exam")
            add_scores(session, pair.id, [own], now=1.0)


def carried_out(node: Node, *, within_s: float = 240.0) -> TuningStatus:
    """Let the worker's fine-tuner look after it until it has ended."""
    tuner, ends = FineTuner(node), time.monotonic() + within_s
    try:
        while time.monotonic() < ends:
            tuner.step()
            with node.database.snapshot() as session:
                status = tuning_status(session, node.settings.home)
            if status.state not in ("waiting", "running"):
                return status
            time.sleep(0.1)
    finally:
        tuner.stop()
    raise AssertionError(f"not ended: {status}")


@pytest.mark.slow
def test_a_model_is_asked_for_made_offered_and_judged_without_those_who_taught_it(tmp_path: Path) -> None:
    parent = tiny_model(tmp_path / "tiny")
    settings = NodeSettings(
        home=tmp_path / "node",
        reading=ReadingSettings(model=str(parent.folder)),
        fine_tuning=FineTuningSettings(steps=2),
    )
    node = open_node(settings)
    exams_of_people(tmp_path / "arriving")
    exams = exams_in(tmp_path / "arriving").exams
    of_salt = {salt: episodes_of(exams, PairWindows(), salt=salt) for salt in map(str, range(60))}
    salt, episodes = next(one for one in of_salt.items() if enough(one[1]))
    keep(node, tmp_path / "arriving", salt, episodes, identity_of(parent))

    admin = signed_in(node, "admin")
    assert admin.submit("/evidence/fine-tune", target="haematoma") == 303
    done = carried_out(node)
    assert (done.state, done.author) == ("done", "a admin"), done.said
    made = load_model(settings.home / "models" / done.model)
    may_teach = {e.patient_id for e in alone(episodes) if split_of(e.patient_id) != "test"}
    assert taught_by(made.folder) == may_teach
    assert done.patients == len(may_teach)

    assert admin.submit("/evidence/shadow", model=done.model) == 303
    later = list(enumerate(episodes, start=1))[:9]  # judged under the new model too
    with node.database.transaction() as session:
        for pair_id, episode in later:
            score = replace(volume_score(1, 4, 5), patient=episode.patient_id, model=identity_of(made))
            add_scores(session, pair_id, [replace(score, pair=f"{episode.patient_id}-followup")], now=2.0)
    left = {episode.patient_id for _, episode in later} & may_teach
    assert 0 < len(left) < len(later)
    assert node_evidence(node, champion=identity_of(made)).left_out == len(left)
    node.database.close()
