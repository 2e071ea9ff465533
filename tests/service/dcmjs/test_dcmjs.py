"""dcmjs-dimse, DICOM in JavaScript: it sends to the node, and takes what the node sends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from builders.read_node import made_study, node_that_reads, read_here
from ichnos.service.results.extras import files_for
from ichnos.service.sender import deliver_files
from ichnos.service.settings import Destination
from ichnos.service.store.tables import StudyRow
from service.test_receiver import listen, slices
from service.web.living import require_program

PACKAGE = "dcmjs-dimse@0.3.3"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the scripts and the package; without npm CI fails and anybody else skips."""
    npm, folder = require_program("npm", "npm"), tmp_path_factory.mktemp("dcmjs")
    words = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGE]
    if subprocess.run(words, capture_output=True, timeout=250, check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail(f"{PACKAGE} could not be fetched from npm")
        pytest.skip(f"{PACKAGE} could not be fetched from npm")
    for script in HERE.glob("*.js"):
        shutil.copy(script, folder)
    return folder


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless], ids=["plain", "RLE"])
def test_it_stores_slices_in_the_node(scripts: Path, tmp_path: Path, syntax: str) -> None:
    files = []
    for number, dataset in enumerate(slices(3)):
        if syntax == RLELossless:
            dataset.compress(RLELossless, generate_instance_uid=False)
        files.append(tmp_path / f"{number}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    node, receiver = listen(tmp_path / "home")
    command = ["node", str(scripts / "send.js"), str(receiver.port), *map(str, files)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    finally:
        receiver.stop()
    assert json.loads(ended.stdout.splitlines()[-1]) == [0, 0, 0, 0]  # the echo's answer, and each store's
    kept = [dcmread(file) for file in node.settings.home.rglob("*.dcm")]
    assert sorted(int(slice_.pixel_array[0, 0]) for slice_ in kept) == [0, 1, 2]
    node.database.close()


def test_it_understands_what_the_node_sends(scripts: Path, tmp_path: Path) -> None:
    node = node_that_reads(tmp_path / "node", ("picture",))
    read_here(node, made_study(tmp_path / "study"))
    with node.database.snapshot() as session:
        reading = node.settings.home / session.get_one(StudyRow, 1).reading
    files = files_for(reading, ("picture",))
    command = ["node", str(scripts / "take.js"), str(len(files))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as archive:
        assert archive.stdout is not None
        port = int(archive.stdout.readline())
        there = Destination(name="JS", ae_title="JS", host="127.0.0.1", port=port, commitment=False)
        deliver_files(files, there, "ICHNOS", "1.2.840.99.1")
        taken = [json.loads(line) for line in archive.communicate(timeout=60)[0].splitlines()]
    sent = [dcmread(file) for file in files]
    assert [each["uid"] for each in taken] == [str(each.SOPInstanceUID) for each in sent]
    assert [each["modality"] for each in taken] == [str(each.Modality) for each in sent]
    labels = [str(segment.SegmentLabel) for segment in sent[0].SegmentSequence]
    assert taken[0]["labels"] == labels
    node.database.close()
