"""Pairs in the node: found within windows, judged once, kept whatever is killed, shown to people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
from fastapi.testclient import TestClient

from builders.audited import chance_score, measure, volume_score
from builders.head import head_hu
from builders.series import Quirks, build_series
from ichnos.audit import run as audit_run
from ichnos.audit.score import Score
from ichnos.errors import InputRefused
from ichnos.formats.dicom import open_dicom
from ichnos.reading import Finding, Record
from ichnos.reading.read import volume_digest
from ichnos.reading.record import ReadingProvenance
from ichnos.reading.result import Reading
from ichnos.service.accounts import auth
from ichnos.service.node import Node
from ichnos.service.partners import judge as judging
from ichnos.service.partners.evidence import node_evidence, scores_in
from ichnos.service.partners.finder import SEEN_EVENT, PairFinder
from ichnos.service.partners.folders import shadow_folder
from ichnos.service.partners.judge import PairJudge, add_scores
from ichnos.service.partners.shadow import ShadowReader, set_shadow, shadow_readings
from ichnos.service.settings import PartnerSettings
from ichnos.service.store import events, queue, studies
from ichnos.service.store.images import StoredImage, store_image
from ichnos.service.store.options import option
from ichnos.service.store.tables import StudyRow
from ichnos.service.web.app import create_app
from service.partners.arriving import later, pairs, stand_in, study, waiting
from service.web.visits import add_judgements

# ---- finding


def test_a_partner_is_paired_after_it_came_to_rest_and_once(node: Node) -> None:
    first = study(node, "1.1", "20260101")
    later(node, 50)
    second = study(node, "1.2", "20260102")
    mri = study(node, "1.3", "20260110", modality="MR")
    finder = PairFinder(node)
    assert not finder.step()  # they may still be arriving
    later(node, 101)
    assert finder.step()
    assert set(pairs(node)) == {(first, second, "waiting"), (first, mri, "waiting"), (second, mri, "waiting")}
    assert not finder.step()
    with node.database.transaction() as session:  # as after a restore of an older database
        session.get_one(judging.OptionRow, SEEN_EVENT).value = 0
    finder.step()
    assert len(pairs(node)) == waiting(node, "judge") == 3


@pytest.mark.parametrize(
    ("date", "patient", "modality"),
    [
        ("20251231", "P1", "CT"),
        ("20260601", "P1", "CT"),
        ("20260102", "P2", "CT"),
        ("20260102", "P1", "US"),
        ("", "P1", "CT"),
    ],
)
def test_what_cannot_judge_is_not_paired(node: Node, date: str, patient: str, modality: str) -> None:
    first = study(node, "1.1", "20260101")
    later(node, 50)
    study(node, "1.2", date, patient=patient, modality=modality)
    later(node, 200)
    PairFinder(node).step()
    assert [pair for pair in pairs(node) if pair[0] == first] == []


def test_a_reading_made_after_the_partner_came_is_no_forecast(node: Node) -> None:
    mri = study(node, "1.3", "20260110", modality="MR")
    later(node, 500)
    ct = study(node, "1.1", "20260101")
    later(node, 200)
    PairFinder(node).step()
    assert pairs(node) == [(ct, mri, "late")]
    assert waiting(node, "judge") == 0


def test_pairing_can_be_switched_off_and_kept_to_the_night(node: Node) -> None:
    off = Node(
        node.settings.model_copy(update={"partners": PartnerSettings(enabled=False)}),
        node.database,
        node.clock,
    )
    assert not PairFinder(off).step()
    night = PartnerSettings(from_hour=20, to_hour=6)
    assert [night.may_judge(hour) for hour in (19, 20, 0, 5, 6)] == [False, True, True, True, False]


# ---- judging


def test_scores_are_kept_with_the_end_of_the_task(paired: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = (volume_score(1, 20, 22), chance_score(1, 0.3, True))
    stand_in(monkeypatch, *mine)
    judge = PairJudge(paired)
    assert judge.step()
    assert not judge.step()
    with paired.database.snapshot() as session:
        assert scores_in(session) == list(mine)
    assert pairs(paired)[0][2] == "judged"


def test_a_killed_judge_counts_nothing_twice(paired: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, volume_score(1, 20, 22))
    slow, quick = PairJudge(paired), PairJudge(paired)
    job = slow._claim()
    assert job is not None
    later(paired, 1_000)  # killed: its lease runs out
    with paired.database.transaction() as session:
        queue.release_expired(session, now=paired.clock())
    assert quick.step()
    slow._finish(job, "judged", "", [volume_score(1, 99, 99)])  # it was not dead after all
    with paired.database.transaction() as session:
        assert scores_in(session) == [volume_score(1, 20, 22)]
        again = add_scores(session, job.pair_id, [volume_score(1, 99, 99)], now=1.0)
    assert again == 0


def test_a_pair_that_is_none_is_named_and_a_failing_one_is_tried_again(
    paired: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, error=OSError("disk"))
    judge = PairJudge(paired)
    for _ in range(3):
        later(paired, 10_000)
        assert judge.step()
    assert pairs(paired)[0][2] == "failed"
    with paired.database.transaction() as session:
        queue.enqueue(session, "judge", payload={"pair": 1})
    stand_in(monkeypatch, error=InputRefused("no pair among 2 dated exams"))
    assert judge.step()
    assert pairs(paired)[0][2] == "no pair"


def test_nothing_is_judged_outside_the_hours(paired: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    hours = PartnerSettings(from_hour=20, to_hour=6)  # the clock stands at a quarter past midnight
    day = Node(paired.settings.model_copy(update={"partners": hours}), paired.database, lambda: 43_200.0)
    assert not PairJudge(day).step()


def test_two_head_cts_go_through_pair_and_audit(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of the node, not stand-ins; only transfer's registration is spared."""

    def transfer(root: Path, targets: Any, *, out: Path, **more: Any) -> Any:
        from ichnos.formats import bids

        (patient,) = bids.read_cohort(root)
        row = {"id": f"{patient.id}-expansion", "verdict": "pass", "causes": "", "followup_ich_ml": 7.5}
        return audit_run.CohortTransfer((row,), (), out / "index.html", None, 0.0)

    monkeypatch.setattr(audit_run, "transfer_cohort", transfer)
    for date, bleed_mm in (("20260301", 10.0), ("20260302", 14.0)):
        header = {"date": date, "seed": date, "patient_id": "P1"}
        files = build_series(head_hu(bleed_mm=bleed_mm), tmp_path / date, Quirks(header=header))
        scan = open_dicom(tmp_path / date)
        with node.database.transaction() as session:
            for file in files:
                image = store_image(node.settings.home, file)
                studies.register_image(session, image, now=node.clock(), source="CT1")
            row = studies.latest_revision(session, image.study_uid)
            assert row is not None
            row.state, row.read_at, row.reading = "ready", node.clock(), f"readings/{row.id}"
            events.append_event(session, "ready", at=node.clock(), actor="worker", study_id=row.id)
            folder = node.settings.home / row.reading
        folder.mkdir(parents=True)
        (folder / "reading.json").write_text(record(volume_digest(scan.volume)).model_dump_json())
        later(node, 50)
    later(node, 200)
    PairFinder(node).step()
    assert PairJudge(node).step()
    with node.database.snapshot() as session:
        (score,) = scores_in(session)
    assert (score.quantity, score.predicted, score.truth, score.held) == ("followup_volume", 6.0, 7.5, True)
    assert score.month == "2026-03"
    assert "P1" not in score.patient
    assert list((node.settings.home / "partners").iterdir()) == []  # no voxel stays of what was judged


def record(digest: str, model: str = "ab" * 32) -> Record:
    provenance = ReadingProvenance(
        code_version="0",
        model_name="m",
        model_version="1",
        model_sha256=model,
        input_sha256=digest,
        backend="none",
    )
    measures = (measure("followup_volume", 6.0, 4.0, 9.0),)
    finding = Finding(target="expansion", status="read", sentence="", measures=measures)
    return Record(name="x", status="read", findings=(finding,), provenance=provenance)


def test_a_segmentation_that_comes_later_has_its_pair_judged_again(
    paired: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, by_person = (volume_score(1, 20, truth, judge=by) for truth, by in ((22, "model"), (30, "person")))
    stand_in(monkeypatch, own)
    judge, finder = PairJudge(paired), PairFinder(paired)
    assert judge.step()
    later(paired, 10)
    seg = StoredImage(
        "images/s.dcm", "ab" * 32, 1, "1.1", "1.1.8", "1.1.8.1", "1.2", "SEG", "P1", "", "20260101"
    )
    with paired.database.transaction() as session:
        studies.register_image(session, seg, now=paired.clock(), source="viewer")
    later(paired, 200)
    assert finder.step()
    assert not finder.step()
    drawn = Score(**{**volume_score(1, 20, 21).__dict__, "partner": "reader", "quantity": "ich_volume"})
    stand_in(monkeypatch, volume_score(1, 99, 99, judge="model"), by_person, drawn)
    assert judge.step()
    with paired.database.snapshot() as session:
        assert scores_in(session) == [own, by_person, drawn]  # added beside, nothing changed


# ---- shadow


def test_a_shadow_model_reads_new_studies_and_nobody_is_told(node: Node) -> None:
    with node.database.transaction() as session:
        set_shadow(session, "new", now=0, actor="ann")
    ct = study(node, "1.1", "20260101")
    (node.settings.home / "images").mkdir()
    file = next(iter(_files(node, ct)))
    file.write_bytes(b"x")
    later(node, 200)
    PairFinder(node).step()
    models: list[str] = []

    def reader_of(model: str) -> Any:
        models.append(model)
        return lambda folder, name: Reading(record("00"), None, None)

    shadow = ShadowReader(node, reader_of)
    assert shadow.step()
    assert not shadow.step()
    assert models == ["new"]
    with node.database.transaction() as session:  # as when the CT is read again
        queue.enqueue(session, "shadow", study_id=ct, payload={"model": "new"})
    later(node, 500)
    assert shadow.step()
    assert models == ["new"]  # what it had said stays a forecast
    own = shadow_folder(node.settings.home, ct) / "new"
    assert shadow_readings(node.settings.home, ct, until=node.clock() - 500) == [own]
    assert shadow_readings(node.settings.home, ct, until=node.clock() - 501) == []
    assert (shadow_folder(node.settings.home, ct) / "new" / "reading.json").is_file()
    with node.database.snapshot() as session:
        assert session.get_one(StudyRow, ct).reading == f"readings/{ct}"  # what people see is as before
        assert waiting(node, "send") == 0


def _files(node: Node, study_id: int) -> list[Path]:
    with node.database.snapshot() as session:
        row = session.get_one(StudyRow, study_id)
        return [node.settings.home / image.path for image in studies.files_of(session, row)]


# ---- what people see


@pytest.fixture
def judged(paired: Node) -> Node:
    add_judgements(paired, pair_id=1)
    return paired


def test_evidence_is_of_the_champion_beside_the_challenger(judged: Node) -> None:
    found = node_evidence(judged)
    assert found.evidence.models == (volume_score(1, 1, 1).model,)
    names = [table.name for table in found.evidence.tables]
    assert names[-1] == "duel"
    assert found.pairs == {"waiting": 1}


def test_page_and_api_show_it_and_an_admin_sets_the_shadow(judged: Node) -> None:
    client = TestClient(create_app(judged), base_url="http://node")
    with judged.database.transaction() as session:
        auth.add_user(session, "ann", "correct horse battery", "admin")
    assert client.get("/api/v1/evidence").status_code == 401
    client.post("/sign-in", data={"name": "ann", "password": "correct horse battery"})
    text = client.get("/evidence").text
    assert "What partner exams say" in text
    assert "Champion and challenger" in text
    told = client.get("/api/v1/evidence").json()
    assert told["pairs"] == 30
    assert told["states"] == {"waiting": 1}
    csrf = text.split('name="csrf" value="')[1].split('"')[0]
    model = text.split("<option>")[1].split("<")[0]
    client.post("/evidence/shadow", data={"csrf": csrf, "model": model})
    with judged.database.snapshot() as session:
        assert option(session, "partners.shadow", "") == model
    client.post("/evidence/shadow", data={"csrf": csrf, "model": ""})
    with judged.database.snapshot() as session:
        assert option(session, "partners.shadow", "") == ""


def test_a_finding_is_confirmed_or_rejected_and_the_last_opinion_counts(paired: Node) -> None:
    client = TestClient(create_app(paired), base_url="http://node")
    with paired.database.transaction() as session:
        auth.add_user(session, "ann", "correct horse battery", "reader")
    client.post("/sign-in", data={"name": "ann", "password": "correct horse battery"})
    text = client.get("/studies/1").text
    assert 'data-key="c"' in text
    assert 'data-key="x"' in text
    csrf = text.split('name="csrf" value="')[1].split('"')[0]
    client.post("/studies/1/opinion", data={"csrf": csrf, "opinion": "confirmed"})
    assert client.get("/api/v1/opinions").json() == {"confirmed": 1, "rejected": 0}
    client.post("/studies/1/opinion", data={"csrf": csrf, "opinion": "rejected"})
    assert client.get("/api/v1/opinions").json() == {"confirmed": 0, "rejected": 1}
    assert client.post("/studies/1/opinion", data={"csrf": csrf, "opinion": "perhaps"}).status_code == 422
    assert client.post("/studies/99/opinion", data={"csrf": csrf, "opinion": "confirmed"}).status_code == 404


def test_an_empty_node_has_a_page_too(node: Node) -> None:
    found = node_evidence(node)
    assert (found.evidence.pairs, found.evidence.tables, found.pairs) == (0, (), {})
