"""Tables of the node. Times are seconds since 1970 (UTC), so that both databases order them alike."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

StudyState = Literal[
    "received", "kept", "queued", "reading", "ready", "refused", "failed", "superseded", "purged"
]
TaskState = Literal["waiting", "leased", "done", "dead"]
DeliveryState = Literal["waiting", "sending", "sent", "stored", "dead"]
_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by INTEGER alone


class NodeTables(DeclarativeBase):
    """NodeTables of all tables."""


class StudyRow(NodeTables):
    """One revision of a study: late images of a study that was already queued make the next revision."""

    __tablename__ = "study"
    __table_args__ = (UniqueConstraint("uid", "revision"), Index("study_state", "state", "last_image_at"))

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    uid: Mapped[str] = mapped_column(String(64), index=True)
    revision: Mapped[int] = mapped_column(Integer, default=1)
    state: Mapped[str] = mapped_column(String(16), default="received")
    patient_id: Mapped[str] = mapped_column(String(128), default="")
    patient_name: Mapped[str] = mapped_column(String(256), default="")
    study_date: Mapped[str] = mapped_column(String(16), default="")
    source: Mapped[str] = mapped_column(String(64), default="")  # AE title of the sender, or "stow"
    first_image_at: Mapped[float] = mapped_column(Float)
    last_image_at: Mapped[float] = mapped_column(Float)
    images: Mapped[int] = mapped_column(Integer, default=0)
    expected_images: Mapped[int | None] = mapped_column(Integer, default=None)  # what the archive counts
    settled_at: Mapped[float | None] = mapped_column(Float, default=None)
    read_at: Mapped[float | None] = mapped_column(Float, default=None)
    reason: Mapped[str] = mapped_column(Text, default="")  # why it was refused or failed
    reading: Mapped[str] = mapped_column(String(255), default="")  # folder below the home, once it exists
    urgency: Mapped[float] = mapped_column(Float, default=0.0)  # greater comes first in the worklist
    summary: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # measures for the worklist
    acknowledged_by: Mapped[str] = mapped_column(String(64), default="")
    acknowledged_at: Mapped[float | None] = mapped_column(Float, default=None)
    hold: Mapped[bool] = mapped_column(default=False)  # retention does not remove it


class InstanceRow(NodeTables):
    """One DICOM file, stored as it arrived."""

    __tablename__ = "instance"
    __table_args__ = (UniqueConstraint("sop_uid", "sha256"),)

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    series_uid: Mapped[str] = mapped_column(String(64), index=True)
    sop_uid: Mapped[str] = mapped_column(String(64), index=True)
    sop_class: Mapped[str] = mapped_column(String(64), default="")
    modality: Mapped[str] = mapped_column(String(16), default="")
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(_ID, default=0)
    path: Mapped[str] = mapped_column(String(255))  # below the home
    received_at: Mapped[float] = mapped_column(Float)
    conflicting: Mapped[bool] = mapped_column(default=False)  # other bytes arrived under the same UID


class TaskRow(NodeTables):
    """One thing to do, with its lease."""

    __tablename__ = "task"
    __table_args__ = (
        Index("task_next", "kind", "state", "priority", "id"),
        Index("task_lease", "state", "lease_until"),
    )

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # read, send, judge, shadow, tune
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True, default=None)
    payload: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    priority: Mapped[int] = mapped_column(Integer, default=0)  # lower comes first
    not_before: Mapped[float] = mapped_column(Float, default=0.0)
    lease_until: Mapped[float] = mapped_column(Float, default=0.0)
    worker: Mapped[str] = mapped_column(String(64), default="")
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    attempts_allowed: Mapped[int] = mapped_column(Integer, default=3)
    error: Mapped[str] = mapped_column(Text, default="")


class DeliveryRow(NodeTables):
    """Results of one study on their way to one destination."""

    __tablename__ = "delivery"
    __table_args__ = (UniqueConstraint("study_id", "destination"),)

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    transaction_uid: Mapped[str] = mapped_column(String(64), default="", index=True)  # storage commitment
    error: Mapped[str] = mapped_column(Text, default="")
    changed_at: Mapped[float] = mapped_column(Float)


class EventRow(NodeTables):
    """One link of the append-only chain: what happened, when, by whom."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    at: Mapped[float] = mapped_column(Float)
    study_id: Mapped[int | None] = mapped_column(_ID, index=True, default=None)
    kind: Mapped[str] = mapped_column(String(32))
    actor: Mapped[str] = mapped_column(String(64))  # a loop of the node, or a user's name
    details: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    previous: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64), unique=True)


class UserRow(NodeTables):
    """A person who may sign in."""

    __tablename__ = "person"

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    password_hash: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(String(16))  # reader, researcher, admin
    active: Mapped[bool] = mapped_column(default=True)
    subject: Mapped[str] = mapped_column(String(255), default="", index=True)  # OIDC: issuer and subject


class LoginRow(NodeTables):
    """A signed-in browser, or an API token; only the hash of its secret is kept."""

    __tablename__ = "login"

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    label: Mapped[str] = mapped_column(String(64), default="")  # "" for a browser, else the token's name
    csrf: Mapped[str] = mapped_column(String(64), default="")
    scopes: Mapped[str] = mapped_column(String(128), default="")  # of a token, separated by spaces
    created_at: Mapped[float] = mapped_column(Float, default=0.0)
    expires_at: Mapped[float] = mapped_column(Float)


class DestinationRow(NodeTables):
    """A destination that was added in the pages, or the switch of one that the settings file lists."""

    __tablename__ = "destination"

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # empty: those of the file
    enabled: Mapped[bool] = mapped_column(default=True)


class OptionRow(NodeTables):
    """A setting that was changed in the pages; it wins over the settings file."""

    __tablename__ = "setting"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[Any] = mapped_column(JSON)


class PairRow(NodeTables):
    """A plain CT that had been read, and an exam of the same patient that may judge it."""

    __tablename__ = "pair"
    __table_args__ = (UniqueConstraint("ct_study_id", "partner_study_id"),)

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    ct_study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    partner_study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    state: Mapped[str] = mapped_column(
        String(16), default="waiting"
    )  # judged, refused, no pair, late, failed
    reason: Mapped[str] = mapped_column(Text, default="")
    found_at: Mapped[float] = mapped_column(Float)
    judged_at: Mapped[float | None] = mapped_column(Float, default=None)


class ScoreRow(NodeTables):
    """One quantity of one pair under one model and judge; counted once, never changed."""

    __tablename__ = "score"
    __table_args__ = (UniqueConstraint("pair_id", "partner", "model", "quantity", "judge"),)

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    pair_id: Mapped[int] = mapped_column(ForeignKey("pair.id"), index=True)
    partner: Mapped[str] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(255), index=True)
    quantity: Mapped[str] = mapped_column(String(64))
    judge: Mapped[str] = mapped_column(String(16), default="exam")  # exam, model, person
    score: Mapped[dict[str, Any]] = mapped_column(JSON)  # all of `ichnos.audit.score.Score`
    at: Mapped[float] = mapped_column(Float)
