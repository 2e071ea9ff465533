"""Settings of the node: one validated tree from defaults, a file and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_AE_LENGTH = 16  # DICOM PS3.5, value representation AE


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Peer(_Part):
    """A sender that may connect to the receiver.

    >>> Peer(ae_title=" CT1 ").ae_title
    'CT1'
    """

    ae_title: str = Field(description="calling AE title")
    address: str = Field(default="", description="IP address; empty: any address")

    @field_validator("ae_title")
    @classmethod
    def _title(cls, title: str) -> str:
        return checked_ae_title(title)


class ReceiverSettings(_Part):
    """How exams arrive."""

    ae_title: str = Field(default="ICHNOS", description="our AE title")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=11112, ge=0, le=65535, description="DICOM port; 0 chooses a free one")
    peers: tuple[Peer, ...] = Field(default=(), description="who may connect; empty: loopback only")
    associations: int = Field(default=25, ge=1, description="associations at the same time, per process")
    processes: int = Field(default=2, ge=1, le=16, description="processes that share the port")
    tls_certificate: Path | None = Field(default=None, description="our certificate (PEM); none: no TLS")
    tls_key: Path | None = Field(default=None, description="private key of the certificate (PEM)")
    tls_peers: Path | None = Field(
        default=None, description="authorities that sign peers' certificates (PEM)"
    )

    @field_validator("ae_title")
    @classmethod
    def _title(cls, title: str) -> str:
        return checked_ae_title(title)

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.host not in LOOPBACK and not self.peers:
            raise ValueError(
                f"the receiver listens on {self.host} and no peer is listed; name the senders under"
                " receiver.peers, or listen on 127.0.0.1"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS needs both receiver.tls_certificate and receiver.tls_key")
        return self


class AssemblySettings(_Part):
    """When a study counts as complete."""

    quiet_s: float = Field(default=10.0, gt=0, description="seconds without a new image")
    limit_s: float = Field(default=900.0, gt=0, description="seconds after which a study is read anyway")
    early: bool = Field(default=True, description="do not wait where the archive or the geometry says: whole")
    early_quiet_s: float = Field(default=2.0, gt=0, description="seconds without a new image even then")


class ReadingSettings(_Part):
    """What reads a study."""

    model: str = Field(default="", description="model folder (default: the models that ship with ichnos)")
    device: str = Field(default="cpu", description="cpu, cuda or mps")
    threads: int | None = Field(default=None, ge=1, description="threads per worker (default: all cores)")
    lease_s: float = Field(default=120.0, gt=1, description="seconds before a silent worker loses its task")
    attempts: int = Field(default=3, ge=1, description="tries before a task is set aside")


Extra = Literal["picture", "pdf", "rectified"]  # beside SEG and SR


class Destination(_Part):
    """Where results go.

    >>> Destination(name="archive", host="10.0.0.5", ae_title="PACS").port
    104
    """

    name: str = Field(min_length=1, description="how people call it")
    kind: Literal["dicom", "stow"] = Field(default="dicom", description="C-STORE, or STOW-RS")
    ae_title: str = Field(default="", description="called AE title (dicom)")
    host: str = Field(default="", description="address (dicom)")
    port: int = Field(default=104, ge=1, le=65535, description="port (dicom)")
    url: str = Field(default="", description="DICOMweb root (stow)")
    commitment: bool = Field(default=False, description="ask for storage commitment (dicom)")
    extras: tuple[Extra, ...] = Field(
        default=(), description="picture, pdf, rectified: sent beside SEG and SR"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "dicom" and not (self.host and self.ae_title):
            raise ValueError(f"destination {self.name!r} needs host and ae_title")
        if self.kind == "stow" and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"destination {self.name!r} needs url, the DICOMweb root as http(s)://…")
        return self


class SendingSettings(_Part):
    """How results leave."""

    destinations: tuple[Destination, ...] = ()
    attempts: int = Field(default=8, ge=1, description="tries before a delivery is set aside")
    first_wait_s: float = Field(default=5.0, gt=0, description="wait after the first failure; it doubles")

    @field_validator("destinations")
    @classmethod
    def _unique(cls, destinations: tuple[Destination, ...]) -> tuple[Destination, ...]:
        names = [destination.name for destination in destinations]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two destinations are called {', '.join(twice)}; names must differ")
        return destinations


class ArchiveSettings(_Part):
    """The archive that has other studies of a patient: C-FIND and C-MOVE, or DICOMweb.

    >>> ArchiveSettings(web="https://pacs.example/dicom-web").answers, ArchiveSettings().answers
    (True, False)
    """

    ae_title: str = Field(default="", description="its AE title")
    host: str = Field(default="", description="its address; empty: no archive is asked")
    port: int = Field(default=104, ge=1, le=65535, description="its port")
    web: str = Field(default="", description="its DICOMweb (QIDO-RS, WADO-RS); if given, asked instead")

    @property
    def answers(self) -> bool:
        """Say whether there is an archive that can be asked."""
        return bool(self.host or self.web)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.host) != bool(self.ae_title):
            raise ValueError("the archive needs both archive.host and archive.ae_title")
        return self


class WebSettings(_Part):
    """The pages and the API."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8045, ge=0, le=65535, description="port; 0 chooses a free one")
    session_hours: float = Field(default=10.0, gt=0, description="hours until people sign in again")
    secure_cookies: bool = Field(default=False, description="send cookies over HTTPS only")
    public_url: str = Field(default="", description="address that browsers see, behind a proxy")


class OidcSettings(_Part):
    """An identity provider that signs people in (OpenID Connect, authorization code with PKCE)."""

    issuer: str = Field(default="", description="its address; empty: local users alone")
    client_id: str = Field(default="", description="how it knows this node")
    client_secret_file: Path | None = Field(
        default=None, description="file with our secret; none: public client"
    )
    label: str = Field(default="Sign in with your organisation", description="text of the button")
    scope: str = Field(default="openid profile", description="what is asked for")
    roles_claim: str = Field(default="groups", description="claim that lists the groups of a person")
    admin: tuple[str, ...] = Field(default=(), description="groups whose members are admins")
    researcher: tuple[str, ...] = Field(default=(), description="groups whose members are researchers")
    reader: tuple[str, ...] = Field(default=(), description="groups whose members are readers")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.issuer and not self.client_id:
            raise ValueError("oidc.issuer is given, but oidc.client_id is not")
        host = self.issuer.split("://")[-1].split("/")[0].rsplit(":", 1)[0]
        if self.issuer and not self.issuer.startswith("https://") and host not in LOOPBACK:
            raise ValueError("oidc.issuer must be an https:// address")
        if self.issuer and not (self.admin or self.researcher or self.reader):
            raise ValueError(
                "name the groups that may sign in under oidc.admin, oidc.researcher or oidc.reader"
            )
        return self


class SyslogSettings(_Part):
    """The audit repository, a syslog server to which every event is sent (DICOM PS3.15 A.6 and A.7).

    >>> SyslogSettings(host="audit.example.org").port
    6514
    """

    host: str = Field(default="", description="its name or address; empty: nothing is sent")
    port: int = Field(default=6514, ge=1, le=65535, description="its port (514 is usual for udp)")
    transport: Literal["tls", "udp"] = Field(default="tls", description="tls (RFC 5425) or udp (RFC 5426)")
    authorities: Path | None = Field(
        default=None, description="authorities of its certificate (PEM); none: the system's"
    )
    certificate: Path | None = Field(default=None, description="our certificate, where it asks for one (PEM)")
    key: Path | None = Field(default=None, description="private key of the certificate (PEM)")
    identified: bool = Field(default=False, description="name study and patient in the messages")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate needs both audit.certificate and audit.key")
        return self


class StorageSettings(_Part):
    """What is kept, and when no more is accepted."""

    refuse_below_gib: float = Field(
        default=2.0, ge=0, description="free disk space under which exams are refused"
    )
    queue_limit: int = Field(
        default=10_000, ge=1, description="waiting readings above which exams are refused"
    )
    keep_days: float = Field(default=0.0, ge=0, description="days until a study is removed; 0: never")


class PartnerSettings(_Part):
    """When exams of the same patient judge what had been read.

    >>> night = PartnerSettings(from_hour=20, to_hour=6)
    >>> night.may_judge(23), night.may_judge(7)
    (True, False)
    """

    enabled: bool = Field(default=True, description="judge readings by partner exams that arrive")
    delay_s: float = Field(default=900.0, ge=0, description="seconds after the partner's arrival")
    from_hour: int = Field(default=0, ge=0, le=23, description="hour (UTC) from which pairs are judged")
    to_hour: int = Field(default=24, ge=1, le=24, description="hour (UTC) until which pairs are judged")
    exam_sd: dict[str, float] = Field(
        default={}, description="a partner exam's own error by quantity, SD of ln(1 + mL)"
    )
    search: bool = Field(default=False, description="ask the archive for partner exams, in these hours")
    search_every_h: float = Field(default=24.0, gt=0, description="hours until a patient is asked for again")
    search_daily: int = Field(
        default=20, ge=0, description="studies that the archive is to send a day at most"
    )

    def may_judge(self, hour: int) -> bool:
        """Say whether pairs are judged in an hour of the day; the span may go over midnight."""
        if self.from_hour < self.to_hour:
            return self.from_hour <= hour < self.to_hour
        return hour >= self.from_hour or hour < self.to_hour


class FineTuningSettings(_Part):
    """How a model is fine-tuned on the node's pairs, in the hours of `partners` and in the background.

    >>> FineTuningSettings().steps, FineTuningSettings().share
    (100, 0.5)
    """

    steps: int = Field(default=100, ge=1, description="optimiser steps")
    share: float = Field(default=0.5, gt=0, lt=1, description="weight of what was tuned in the average")
    device: str = Field(default="cpu", description="cpu, cuda or mps; cpu leaves a GPU to the reading")
    threads: int = Field(default=1, ge=1, description="threads of the background process")
    attempts: int = Field(default=5, ge=1, description="tries before it is given up, if it dies")


class NodeSettings(_Part):
    """Everything that decides how the node behaves.

    >>> NodeSettings(home=Path("node")).database_url
    'sqlite:///node/node.db'
    """

    home: Path = Field(default=Path("ichnos-node"), description="folder of the node's files")
    database: str = Field(default="", description="database URL (default: SQLite in the home folder)")
    receiver: ReceiverSettings = ReceiverSettings()
    assembly: AssemblySettings = AssemblySettings()
    reading: ReadingSettings = ReadingSettings()
    sending: SendingSettings = SendingSettings()
    archive: ArchiveSettings = ArchiveSettings()
    partners: PartnerSettings = PartnerSettings()
    fine_tuning: FineTuningSettings = FineTuningSettings()
    web: WebSettings = WebSettings()
    oidc: OidcSettings = OidcSettings()
    audit: SyslogSettings = SyslogSettings()
    storage: StorageSettings = StorageSettings()

    @property
    def database_url(self) -> str:
        """Return the URL of the database; SQLite in the home folder unless one is given.

        >>> NodeSettings(database="postgresql+psycopg://node@db/ichnos").database_url
        'postgresql+psycopg://node@db/ichnos'
        """
        return self.database or f"sqlite:///{self.home / 'node.db'}"

    def destination(self, name: str) -> Destination | None:
        """Return a destination by its name; None when it is no longer configured.

        >>> archive = Destination(name="archive", host="10.0.0.5", ae_title="PACS")
        >>> settings = NodeSettings(sending=SendingSettings(destinations=(archive,)))
        >>> settings.destination("archive") == archive, settings.destination("gone")
        (True, None)
        """
        return next((d for d in self.sending.destinations if d.name == name), None)


def missing_files(settings: NodeSettings) -> list[str]:
    """Return a sentence for each file that the settings name and that is not there.

    >>> missing_files(NodeSettings(oidc=OidcSettings(client_secret_file=Path("no-such-file"))))
    ['oidc.client_secret_file: no-such-file does not exist']
    """
    receiver, audit, model = settings.receiver, settings.audit, settings.reading.model
    named = {
        "receiver.tls_certificate": receiver.tls_certificate,
        "receiver.tls_key": receiver.tls_key,
        "receiver.tls_peers": receiver.tls_peers,
        "oidc.client_secret_file": settings.oidc.client_secret_file,
        "audit.authorities": audit.authorities,
        "audit.certificate": audit.certificate,
        "audit.key": audit.key,
        "reading.model": Path(model) if model else None,
    }
    return [f"{name}: {path} does not exist" for name, path in named.items() if path and not path.exists()]


def checked_ae_title(title: str) -> str:
    """Return an AE title without its padding, or say what is wrong with it.

    >>> checked_ae_title(" ICHNOS ")
    'ICHNOS'
    """
    stripped = title.strip()
    if not stripped or len(stripped) > _AE_LENGTH or "\\" in stripped or not stripped.isascii():
        raise ValueError(f"AE title {title!r} must have 1 to {_AE_LENGTH} ASCII characters and no backslash")
    return stripped
