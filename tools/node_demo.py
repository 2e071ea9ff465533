"""`make node-demo`: an Orthanc archive, the node beside it, one simulated study through both, OHIF to look.

Everything listens on loopback and ends with Ctrl-C; files stay in node-demo/.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from demo import simulated

from ichnos.errors import IchnosError
from ichnos.service.viewer import install_viewer
from ichnos.simulation.exams.dicom_export import export_ct

OUT = Path(__file__).resolve().parents[1] / "node-demo"
ARCHIVE_HTTP, ARCHIVE_DICOM, NODE_DICOM, NODE_WEB = 8043, 4243, 11113, 8044
ARCHIVE = f"http://127.0.0.1:{ARCHIVE_HTTP}"
PLUGINS = Path("/usr/share/orthanc/plugins")
PATIENCE_S = 300.0
OHIF = "@ohif/app@3.13.2"  # from npm, about 50 MB


def main() -> int:
    """Start both, send a study to the archive, wait for the results to come back to it."""
    orthanc = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if orthanc is None:
        print(
            "Orthanc is not installed. On Debian: apt-get install orthanc orthanc-dicomweb", file=sys.stderr
        )
        return 3
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    viewer = fetch_viewer()
    log = (OUT / "orthanc.log").open("w")
    archive = subprocess.Popen([orthanc, str(archive_settings())], stdout=log, stderr=log)
    program = Path(sys.executable).with_name("ichnos")
    verb = [str(program), "serve", "--config", str(node_settings())]
    node = subprocess.Popen(verb)
    try:
        wait(lambda: ask("/system"), "Orthanc")
        send_a_study()
        print("waiting until the node has read it and sent its results …", flush=True)
        wait(lambda: {"SEG", "SR"} <= modalities(), "the node's results")
        print(f"\nthe archive  {ARCHIVE}/app/explorer.html   (CT, SEG and SR of the demo study)")
        print(f"the node     http://127.0.0.1:{NODE_WEB}   (sign in with the name and password above)")
        print(f"OHIF         {viewer}")
        if sys.stdin.isatty():
            print("Ctrl-C ends both.")
            signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        node.terminate()
        archive.terminate()
        node.wait()
        archive.wait()
    return 0


def fetch_viewer() -> str:
    """Put OHIF into the node's home, where npm can fetch it; say where to look, or how to get it."""
    later = "npm pack @ohif/app; ichnos serve ohif FILE.tgz --home node-demo/node"
    npm = shutil.which("npm")
    if npm is None:
        return f"not here: npm is not installed (Debian: npm). Later: {later}"
    print("fetching OHIF from npm …", flush=True)
    (OUT / "node").mkdir()
    fetched = subprocess.run([npm, "pack", "--silent", OHIF], cwd=OUT, capture_output=True, check=False)
    try:
        for package in OUT.glob("*.tgz"):
            install_viewer(OUT / "node", package)
            package.unlink()
            return "the link `Open in OHIF` on the page of the study"
    except IchnosError as error:
        return f"not here: {error}"
    return f"not here: npm could not fetch it (exit code {fetched.returncode}). Later: {later}"


def archive_settings() -> Path:
    """Write Orthanc's settings: loopback only, and the node as a modality that it sends to."""
    settings = {
        "Name": "archive",
        "StorageDirectory": str(OUT / "archive"),
        "IndexDirectory": str(OUT / "archive"),
        "DicomAet": "ARCHIVE",
        "DicomPort": ARCHIVE_DICOM,
        "HttpPort": ARCHIVE_HTTP,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"ichnos": ["ICHNOS", "127.0.0.1", NODE_DICOM]},
        "DicomAlwaysAllowStore": True,
        "Plugins": [str(PLUGINS)] if PLUGINS.is_dir() else [],
    }
    file = OUT / "orthanc.json"
    file.write_text(json.dumps(settings, indent=2))
    return file


def node_settings() -> Path:
    """Write the node's settings: the archive is where results go."""
    archive = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": ARCHIVE_DICOM}
    settings = {
        "home": str(OUT / "node"),
        "receiver": {"port": NODE_DICOM},
        "web": {"port": NODE_WEB},
        "assembly": {"quiet_s": 3},
        "sending": {"destinations": [{**archive, "commitment": True}]},
    }
    file = OUT / "node.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def send_a_study() -> None:
    """Simulate the demo patient, store the CT in the archive, and let the archive send it to the node."""
    print("simulating a patient …", flush=True)
    patient, exam = simulated()
    for file in export_ct(exam, OUT, patient_id="demo", exam="ct", latent=patient.latent):
        ask("/instances", content=Path(file).read_bytes())
    (study,) = ask("/studies")
    sent = wait(lambda: ask("/modalities/ichnos/store", content=json.dumps(study).encode()), "the receiver")
    print(f"the archive sent {sent['InstancesCount']} images to the node", flush=True)


def modalities() -> set[str]:
    """Return the modalities of the series in the archive."""
    return {ask(f"/series/{series}")["MainDicomTags"]["Modality"] for series in ask("/series")}


def ask(path: str, *, content: bytes | None = None) -> Any:
    """Ask Orthanc's REST API."""
    request = urllib.request.Request(f"{ARCHIVE}{path}", data=content)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def wait(question: Any, what: str) -> Any:
    """Ask again until there is an answer."""
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        try:
            if answer := question():
                return answer
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"{what} did not answer within {PATIENCE_S:g} s; the logs are in {OUT}")


if __name__ == "__main__":
    sys.exit(main())
