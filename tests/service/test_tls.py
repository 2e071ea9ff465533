"""DICOM over TLS, judged by dcmtk: with a certificate of the hospital's authority, and without."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ichnos.service.receiver import Receiver
from service.test_receiver import ANY_PORT, counts, listen, slices

pytestmark = pytest.mark.skipif(
    shutil.which("storescu") is None or shutil.which("openssl") is None,
    reason="dcmtk or openssl is not installed (Debian: dcmtk openssl)",
)


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def authority(folder: Path, name: str) -> Path:
    """Make a certificate authority; return its certificate, with the key beside it."""
    certificate = folder / f"{name}.pem"
    subject = ["-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE"]
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", folder / f"{name}.key"]
    openssl("req", "-x509", *key, "-days", "2", "-out", certificate, *subject)
    return certificate


def signed(folder: Path, name: str, by: Path) -> tuple[Path, Path]:
    """Make a certificate that an authority signed; return certificate and key."""
    certificate, key, request = folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}.csr"
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
    signer = ["-CA", by, "-CAkey", by.with_suffix(".key"), "-CAcreateserial"]
    openssl("x509", "-req", "-in", request, *signer, "-days", "2", "-out", certificate)
    return certificate, key


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[Receiver, Path]]:
    hospital = authority(tmp_path, "hospital")
    certificate, key = signed(tmp_path, "node", hospital)
    tls = {"tls_certificate": certificate, "tls_key": key, "tls_peers": hospital}
    node, receiver = listen(tmp_path / "home", receiver=ANY_PORT.model_copy(update=tls))
    yield receiver, tmp_path
    receiver.stop()
    node.database.close()


def store(receiver: Receiver, folder: Path, *options: str | Path) -> int:
    file = folder / "image.dcm"
    slices(1)[0].save_as(file, enforce_file_format=True)
    command = ["storescu", *map(str, options), "127.0.0.1", str(receiver.port), str(file)]
    sent = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    sys.stderr.write(sent.stdout + sent.stderr)  # pytest shows why a file was not taken
    return sent.returncode


def test_only_a_certificate_of_the_authority_opens_the_door(secured: tuple[Receiver, Path]) -> None:
    receiver, folder = secured
    hospital = folder / "hospital.pem"
    scanner, key = signed(folder, "scanner", hospital)
    assert store(receiver, folder, "+tls", key, scanner, "+cf", hospital) == 0
    assert counts(receiver.node) == (1, 1)

    stranger = authority(folder, "stranger")
    other, other_key = signed(folder, "other", stranger)
    assert store(receiver, folder, "+tls", other_key, other, "+cf", hospital) != 0
    assert store(receiver, folder) != 0  # no TLS at all
    assert counts(receiver.node) == (1, 1)
