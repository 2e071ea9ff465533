"""An admin has the model that reads fine-tuned: in the background, once, and nothing is lost or doubled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
from sqlalchemy import select

from builders.audited import volume_score
from builders.tiny_model import tiny_model
from ichnos.audit.adaptation import note_taught
from ichnos.audit.pairing import split_of
from ichnos.audit.tuning import TuningSettings
from ichnos.cli.audit.adapt import AdaptSettings
from ichnos.errors import InputRefused, UsageError
from ichnos.models import load_model
from ichnos.service.accounts.auth import Role
from ichnos.service.assembler import assemble
from ichnos.service.node import Node
from ichnos.service.partners.judge import add_scores
from ichnos.service.partners.tuner import FineTuner
from ichnos.service.partners.tuning import (
    TUNE,
    TuningStatus,
    note_progress,
    request_tuning,
    tuning_folder,
    tuning_status,
)
from ichnos.service.partners.tuning_job import TuningJob
from ichnos.service.settings import FineTuningSettings, NodeSettings, PartnerSettings, ReadingSettings
from ichnos.service.store import queue
from ichnos.service.store.database import Database
from ichnos.service.store.tables import EventRow, InstanceRow, PairRow, StudyRow, TaskRow
from ichnos.service.upkeep.leftovers import sweep
from service.web.visits import signed_in

NOON = 1_774_008_000.0  # 20 March 2026
NEW = "tiny-tuned-20260320"
MAY_TEACH = [f"p{k}" for k in range(60) if split_of(f"p{k}") != "test"]
FOR_TESTING = [f"p{k}" for k in range(60) if split_of(f"p{k}") == "test"]


class Clock:
    """A clock that tests move."""

    now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def node(database: Database, tmp_path: Path) -> Node:
    model = tiny_model(tmp_path / "tiny")
    settings = NodeSettings(home=tmp_path / "node", reading=ReadingSettings(model=str(model.folder)))
    settings.home.mkdir()
    return Node(settings, database, clock=Clock())


def accept(
    node: Node, ids: list[str], *, partner: str = "flair", state: str = "ready", person: str = ""
) -> None:
    """Add accepted pairs of patients as scores name them, each with one image of CT and partner exam."""
    with node.database.transaction() as session:
        for name in ids:
            times = {"first_image_at": 0.0, "last_image_at": 0.0}
            who = {"patient_id": "" if state == "purged" else person or f"person of {name}", "state": state}
            both = [StudyRow(uid=f"1.{partner}.{name}.{k}", **who, **times) for k in (1, 2)]
            session.add_all(both)
            session.flush()
            for study in both:
                uids = {"series_uid": f"{study.uid}.1", "sop_uid": f"{study.uid}.1.1", "sha256": study.uid}
                session.add(
                    InstanceRow(study_id=study.id, path=f"images/{study.id}.dcm", received_at=0.0, **uids)
                )
            pair = PairRow(ct_study_id=both[0].id, partner_study_id=both[1].id, found_at=0.0, state="judged")
            session.add(pair)
            session.flush()
            score = replace(volume_score(1, 20, 22), patient=name, pair=f"{name}-{partner}", partner=partner)
            add_scores(session, pair.id, [score], now=1.0)


def status(node: Node) -> TuningStatus:
    with node.database.snapshot() as session:
        return tuning_status(session, node.settings.home)


def tasks(node: Node) -> list[TaskRow]:
    with node.database.snapshot() as session:
        return list(session.execute(select(TaskRow).where(TaskRow.kind == TUNE)).scalars())


def happened(node: Node) -> list[tuple[str, str]]:
    """Return the events of fine-tuning: what, and by whom."""
    with node.database.snapshot() as session:
        rows = session.execute(select(EventRow).order_by(EventRow.id)).scalars()
        return [(row.kind, row.actor) for row in rows if "fine-tun" in row.kind]


def later(node: Node, seconds: float) -> None:
    node.clock.now += seconds  # type: ignore[attr-defined]


# ---- asking


def test_the_settings_are_those_of_adapt() -> None:
    mine, theirs, flags = FineTuningSettings(), TuningSettings(), AdaptSettings()
    assert (mine.steps, mine.share) == (theirs.steps, theirs.share) == (flags.steps, flags.share)


def test_admins_alone_may_ask_and_once(node: Node) -> None:
    accept(node, MAY_TEACH)
    asked: list[tuple[Role, int, int]] = [("reader", 403, 403), ("researcher", 403, 403), ("admin", 303, 400)]
    for role, page, api in asked:
        browser = signed_in(node, role)
        assert ("Fine-tune</button>" in browser.get("/evidence").text) is (role == "admin")
        assert (
            browser.post("/evidence/fine-tune", data={"target": "tract"}).status_code == 403
        )  # no CSRF token
        assert browser.submit("/evidence/fine-tune", target="leukoaraiosis") == page
        again = browser.post("/api/v1/evidence/fine-tuning", headers={"X-CSRF-Token": browser.csrf})
        assert again.status_code == api
    assert "waits or runs already" in again.json()["detail"]
    assert [(task.state, task.payload["author"]) for task in tasks(node)] == [("waiting", "a admin")]
    assert happened(node) == [("fine-tuning asked", "a admin")]
    assert "Fine-tune</button>" not in browser.get("/evidence").text
    assert browser.get("/api/v1/evidence/fine-tuning").json()["state"] == "waiting"


def test_the_api_takes_a_request(node: Node) -> None:
    accept(node, MAY_TEACH, partner="reader")
    browser = signed_in(node, "admin")
    url, csrf = "/api/v1/evidence/fine-tuning", {"X-CSRF-Token": browser.csrf}
    assert browser.get(url).json()["state"] == "none"
    assert browser.post(f"{url}?target=infarct", headers=csrf).status_code == 422
    answer = browser.post(f"{url}?target=haematoma", headers=csrf)
    assert (answer.status_code, answer.json()["state"], answer.json()["target"]) == (
        202,
        "waiting",
        "haematoma",
    )


def test_too_few_pairs_removed_images_and_missing_targets_are_refused_in_words(node: Node) -> None:
    accept(node, MAY_TEACH[:19] + FOR_TESTING)
    accept(node, MAY_TEACH[20:30], state="purged")
    few = "^19 patients .* leukoaraiosis; fine-tuning needs 20 or more; the images of 10 further pairs"
    with pytest.raises(InputRefused, match=few):
        request_tuning(node, "leukoaraiosis", actor="ann")
    with pytest.raises(InputRefused, match=r"^0 patients .* shows tract"):
        request_tuning(node, "tract", actor="ann")
    page = signed_in(node, "admin").post("/api/v1/evidence/fine-tuning")
    assert page.status_code == 403  # no CSRF token
    assert (tasks(node), happened(node), status(node).state) == ([], [], "none")


def test_a_person_of_whom_any_scan_is_for_testing_teaches_nothing(node: Node) -> None:
    accept(node, MAY_TEACH[:25])
    accept(node, [FOR_TESTING[0]], partner="reader", person=f"person of {MAY_TEACH[0]}")
    request_tuning(node, "leukoaraiosis", actor="ann")
    (task,) = tasks(node)
    with node.database.snapshot() as session:
        pairs = [session.get_one(PairRow, number) for number in task.payload["pairs"]]
        people = {session.get_one(StudyRow, pair.ct_study_id).patient_id for pair in pairs}
    assert people == {f"person of {name}" for name in MAY_TEACH[1:25]}


# ---- carrying out


class StandIn:
    """A process that tests end."""

    exitcode: int | None = None

    def __init__(self, job: TuningJob) -> None:
        self.job = job

    def is_alive(self) -> bool:
        return self.exitcode is None

    def terminate(self) -> None:
        self.exitcode = -15

    def join(self, timeout: float | None = None) -> None:
        assert self.exitcode is not None or timeout is not None

    def end(self, code: int = 0, **outcome: Any) -> None:
        self.exitcode = code
        if outcome:
            (self.job.work / "outcome.json").write_text(json.dumps(outcome))

    def succeed(self) -> None:
        note_taught(tiny_model(self.job.made).folder, ["p1"])
        self.end(said="mean Dice 0.4 before, 0.5 after", patients=30)


def tuner(node: Node, processes: list[StandIn]) -> FineTuner:
    def start(job: TuningJob) -> Any:
        processes.append(StandIn(job))
        return processes[-1]

    return FineTuner(node, start)


@pytest.fixture
def asked(node: Node) -> Node:
    accept(node, MAY_TEACH)
    request_tuning(node, "leukoaraiosis", actor="ann")
    return node


def test_the_worker_starts_a_process_waits_for_nothing_and_installs_the_model(asked: Node) -> None:
    processes: list[StandIn] = []
    one, home = tuner(asked, processes), asked.settings.home
    assert one.step()  # begun
    assert not one.step()  # it runs: the worker is free to read
    (process,) = processes
    assert len(process.job.files) == 2 * len(MAY_TEACH)
    note_progress(process.job.work, "training", step=7, steps=100)
    running = status(asked)
    assert (running.state, running.step, running.steps, running.model) == ("running", 7, 100, "")
    assert "Step 7 of 100" in signed_in(asked, "reader").get("/evidence").text
    process.succeed()
    assert one.step()
    assert not one.step()
    done = status(asked)
    assert (done.state, done.model, done.patients, done.author) == ("done", NEW, 30, "ann")
    assert "0.5 after" in done.said
    assert load_model(home / "models" / NEW).folder.name == NEW
    assert happened(asked) == [("fine-tuning asked", "ann"), ("fine-tuned", "ann")]
    assert list((home / "tuning").iterdir()) == []
    page = signed_in(asked, "admin").get("/evidence").text
    assert f"<option>{NEW}</option>" in page  # offered for the shadow
    request_tuning(asked, "leukoaraiosis", actor="ann")  # ended: another may be asked for
    assert tasks(asked)[-1].payload["name"] == f"{NEW}-2"


def test_a_node_that_stops_stops_the_process_which_goes_on_where_it_was(asked: Node) -> None:
    processes: list[StandIn] = []
    one = tuner(asked, processes)
    for _ in range(6):  # more often than tries are allowed
        assert one.step()
        (processes[-1].job.work / "checkpoint").touch()
        one.stop()
        assert not processes[-1].is_alive()
        assert status(asked).state == "waiting"
    one.stop()  # nothing runs: nothing happens
    assert tuner(asked, processes).step()
    assert processes[-1].job == processes[0].job
    assert (processes[-1].job.work / "checkpoint").is_file()
    processes[-1].end()
    assert happened(asked) == [("fine-tuning asked", "ann")]


def test_a_killed_worker_s_task_is_taken_up_and_ends_once(asked: Node) -> None:
    processes: list[StandIn] = []
    slow, quick = tuner(asked, processes), tuner(asked, processes)
    assert slow.step()
    later(asked, 1_000)  # killed: its lease runs out
    with asked.database.transaction() as session:
        queue.release_expired(session, now=asked.clock())
    assert quick.step()
    processes[1].succeed()
    assert quick.step()
    processes[0].end(1)  # it was not dead after all
    assert slow.step()
    assert happened(asked) == [("fine-tuning asked", "ann"), ("fine-tuned", "ann")]
    assert status(asked).patients == 30


def test_killed_between_the_move_and_the_commit_the_model_is_there_once(asked: Node) -> None:
    processes: list[StandIn] = []
    first = tuner(asked, processes)
    assert first.step()
    processes[0].succeed()
    first._install(processes[0].job)  # and killed
    later(asked, 1_000)
    with asked.database.transaction() as session:
        queue.release_expired(session, now=asked.clock())
    second = tuner(asked, processes)
    assert second.step()
    processes[1].end()  # its outcome is known
    assert second.step()
    assert status(asked).state == "done"
    assert [folder.name for folder in (asked.settings.home / "models").iterdir()] == [NEW]


def test_a_refusal_and_a_process_that_dies_leave_words_and_no_model(asked: Node) -> None:
    processes: list[StandIn] = []
    one = tuner(asked, processes)
    for _ in range(asked.settings.fine_tuning.attempts):
        assert one.step()
        processes[-1].end(-9)
        assert one.step()
        later(asked, 10_000)
    assert not one.step()
    dead = status(asked)
    assert (dead.state, dead.said) == (
        "refused",
        "the process ended with code -9; the log of the worker says why",
    )
    request_tuning(asked, "leukoaraiosis", actor="bob")
    assert one.step()
    processes[-1].end(refusal="12 pairs show leukoaraiosis; fine-tuning needs 20 or more")
    assert one.step()
    assert (status(asked).state, status(asked).author) == ("refused", "bob")
    assert "12 pairs show leukoaraiosis" in signed_in(asked, "reader").get("/evidence").text
    ends = [event for event in happened(asked) if event[0] != "fine-tuning asked"]
    assert ends == [("not fine-tuned", "ann"), ("not fine-tuned", "bob")]
    assert not (asked.settings.home / "models").exists()


def test_it_works_in_the_hours_of_the_partners_alone(asked: Node) -> None:
    night = asked.settings.model_copy(update={"partners": PartnerSettings(from_hour=20, to_hour=6)})
    clock, processes = Clock(), []
    one = tuner(replace(asked, settings=night, clock=clock), processes)
    assert not one.step()  # noon
    clock.now += 9 * 3600
    assert one.step()
    assert not one.step()
    assert processes[0].is_alive()
    clock.now += 12 * 3600
    assert not one.step()  # morning: it is ended
    assert not processes[0].is_alive()
    assert [task.state for task in tasks(asked)] == ["waiting"]


def test_images_that_were_removed_since_teach_nothing(asked: Node) -> None:
    with asked.database.transaction() as session:
        for study in session.execute(select(StudyRow).limit(2)).scalars():
            study.state = "purged"
    processes: list[StandIn] = []
    one = tuner(asked, processes)
    assert one.step()
    assert len(processes[0].job.files) == 2 * (len(MAY_TEACH) - 1)
    one.stop()


def test_pairs_are_forgotten_once_their_fine_tuning_has_ended(asked: Node) -> None:
    ended, waits = (tuning_folder(asked.settings.home, number) for number in (999, tasks(asked)[0].id))
    for folder in (ended, waits):
        folder.mkdir(parents=True)
    assert sweep(asked, older_s=-60) == 1
    assert (ended.exists(), waits.exists()) == (False, True)


def test_a_worker_that_falls_silent_again_and_again_is_given_up_by_name(asked: Node) -> None:
    processes: list[StandIn] = []
    for _ in range(asked.settings.fine_tuning.attempts):
        assert tuner(asked, processes).step()
        later(asked, 1_000)
        assemble(asked)
    assert status(asked).state == "refused"
    assert "stopped answering" in status(asked).said
    assert happened(asked)[1:] == [("not fine-tuned", "ann")]


def test_a_model_without_the_target_cannot_be_asked_for(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(node, MAY_TEACH, partner="diffusion")
    file = Path(node.settings.reading.model) / "model.json"
    file.write_text(file.read_text().replace('"tract_left"', '"infarct"'))
    with pytest.raises(InputRefused, match="has no tract_left, so it cannot be fine-tuned for tract"):
        request_tuning(node, "tract", actor="ann")
    assert tasks(node) == []


def test_a_second_request_is_refused(asked: Node) -> None:
    with pytest.raises(UsageError, match="waits or runs already"):
        request_tuning(asked, "leukoaraiosis", actor="bob")
    assert len(tasks(asked)) == 1
