"""A small DICOMweb for viewers: QIDO-RS, WADO-RS and STOW-RS (PS3.18) over the images of this node."""

from __future__ import annotations

import json
import logging
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydicom import dcmread
from pydicom.encaps import generate_frames
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from ichnos.errors import InputRefused
from ichnos.service.node import Node
from ichnos.service.reception import keep_image
from ichnos.service.store.images import free_gib
from ichnos.service.store.metadata import metadata_of
from ichnos.service.store.tables import InstanceRow, StudyRow
from ichnos.service.web.access import ImageReader, ImageWriter, NodeOfRequest

DICOMWEB = APIRouter(include_in_schema=False)
_JSON = "application/dicom+json"
_log = logging.getLogger(__name__)
_STUDY_TAGS = ("00080020", "00080030", "00080050", "00100010", "00100020", "0020000D", "00200010")
_SERIES_TAGS = ("00080060", "0008103E", "0020000D", "0020000E", "00200011")
_INSTANCE_TAGS = ("00080016", "00080018", "0020000D", "0020000E", "00200013", "00280010", "00280011")


@DICOMWEB.get("/studies")
def search_studies(node: NodeOfRequest, visitor: ImageReader, request: Request) -> Response:
    """QIDO-RS: list studies by their UIDs; StudyInstanceUID and PatientID are matched exactly."""
    wanted = dict(request.query_params)
    held = exists().where(InstanceRow.study_id == StudyRow.id, InstanceRow.conflicting.is_(False))
    query = select(StudyRow.uid).where(held).group_by(StudyRow.uid).order_by(StudyRow.uid)
    for key, column in (
        ("StudyInstanceUID", StudyRow.uid), ("0020000D", StudyRow.uid), ("PatientID", StudyRow.patient_id),
        ("00100020", StudyRow.patient_id),
    ):  # fmt: skip
        if key in wanted:
            query = query.where(column == wanted[key])
    page = _page(wanted, usual=100, most=1000)
    with node.database.snapshot() as session:
        uids = session.execute(query.offset(page.start).limit(page.stop - page.start)).scalars().all()
        held_by = {uid: _instances(session, uid) for uid in uids}
    return _json([_study_answer(node, uid, found) for uid, found in held_by.items() if found])


@DICOMWEB.get("/studies/{study_uid}/series")
def search_series(node: NodeOfRequest, visitor: ImageReader, request: Request, study_uid: str) -> Response:
    """QIDO-RS: list the series of a study, in the order in which they came."""
    with node.database.snapshot() as session:
        instances = _instances(session, study_uid)
    answers = []
    series = list(dict.fromkeys(instance.series_uid for instance in instances))
    for series_uid in series[_page(request.query_params, usual=len(series))]:
        members = [instance for instance in instances if instance.series_uid == series_uid]
        shown = _shown(node, study_uid, members[0], _SERIES_TAGS)
        answers.append({**shown, "00201209": {"vr": "IS", "Value": [len(members)]}})
    return _json(answers)


@DICOMWEB.get("/studies/{study_uid}/series/{series_uid}/instances")
def search_instances(
    node: NodeOfRequest, visitor: ImageReader, request: Request, study_uid: str, series_uid: str
) -> Response:
    """QIDO-RS: list the instances of a series, in the order in which they came."""
    instances = _found(node, study_uid, series_uid)
    page = _page(request.query_params, usual=len(instances))
    return _json([_shown(node, study_uid, one, _INSTANCE_TAGS) for one in instances[page]])


@DICOMWEB.get("/studies/{study_uid}/metadata")
@DICOMWEB.get("/studies/{study_uid}/series/{series_uid}/metadata")
@DICOMWEB.get("/studies/{study_uid}/series/{series_uid}/instances/{sop_uid}/metadata")
def retrieve_metadata(
    node: NodeOfRequest, visitor: ImageReader, study_uid: str, series_uid: str = "", sop_uid: str = ""
) -> Response:
    """WADO-RS: return all attributes but bulk data."""
    return _json(
        [metadata_of(node.settings.home, one.path) for one in _found(node, study_uid, series_uid, sop_uid)]
    )


@DICOMWEB.get("/studies/{study_uid}")
@DICOMWEB.get("/studies/{study_uid}/series/{series_uid}")
@DICOMWEB.get("/studies/{study_uid}/series/{series_uid}/instances/{sop_uid}")
def retrieve_instances(
    node: NodeOfRequest, visitor: ImageReader, study_uid: str, series_uid: str = "", sop_uid: str = ""
) -> StreamingResponse:
    """WADO-RS: return the files as they are stored, whatever their transfer syntax."""
    files = [node.settings.home / one.path for one in _found(node, study_uid, series_uid, sop_uid)]
    return _multipart((file.read_bytes() for file in files), "application/dicom")


@DICOMWEB.get("/studies/{study_uid}/series/{series_uid}/instances/{sop_uid}/frames/{numbers}")
def retrieve_frames(
    node: NodeOfRequest, visitor: ImageReader, study_uid: str, series_uid: str, sop_uid: str, numbers: str
) -> StreamingResponse:
    """WADO-RS: return frames, compressed as they are stored."""
    instance = _found(node, study_uid, series_uid, sop_uid)[0]
    dataset = dcmread(node.settings.home / instance.path)
    try:
        wanted = [int(number) for number in numbers.split(",")]
    except ValueError:
        raise HTTPException(400, "frames are numbers from 1, separated by commas") from None
    frames = _frames(dataset)
    if not wanted or min(wanted) < 1 or max(wanted) > len(frames):
        raise HTTPException(404, f"this instance has frames 1 to {len(frames)}")
    syntax = dataset.file_meta.TransferSyntaxUID
    kind = f"application/octet-stream; transfer-syntax={syntax}"
    return _multipart((frames[number - 1] for number in wanted), kind)


@DICOMWEB.post("/studies")
@DICOMWEB.post("/studies/{study_uid}")
async def store_instances(
    node: NodeOfRequest, visitor: ImageWriter, request: Request, study_uid: str = ""
) -> Response:
    """STOW-RS: keep the instances of a multipart body; success means on the disk and in the database."""
    if free_gib(node.settings.home) < node.settings.storage.refuse_below_gib:
        raise HTTPException(507, "the disk is nearly full; nothing is accepted")
    parts = _parts(request.headers.get("Content-Type", ""), await request.body())
    kept, failed = [], []
    for part in parts:
        try:
            kept.append(_keep(node, part))
        except InputRefused:
            failed.append({"00081197": {"vr": "US", "Value": [0xC000]}})
    body: dict[str, Any] = {"00081199": {"vr": "SQ", "Value": kept}}
    if failed:
        body["00081198"] = {"vr": "SQ", "Value": failed}
    code = 200 if not failed else 202 if kept else 409
    return JSONResponse(body, status_code=code, media_type=_JSON)


def _keep(node: Node, content: bytes) -> dict[str, Any]:
    incoming = node.settings.home / "incoming" / "stow"
    incoming.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=incoming, suffix=".dcm", delete=False) as file:
        file.write(content)
    try:
        image = keep_image(node, Path(file.name), source="stow")
    finally:
        Path(file.name).unlink(missing_ok=True)
    return {
        "00081150": {"vr": "UI", "Value": [image.sop_class]},
        "00081155": {"vr": "UI", "Value": [image.sop_uid]},
    }


def _parts(content_type: str, body: bytes) -> list[bytes]:
    """Return the contents of a multipart body."""
    boundary = re.search(r'boundary="?([^";,]+)"?', content_type)
    if not content_type.startswith("multipart/related") or boundary is None:
        raise HTTPException(415, "send multipart/related; type=application/dicom; boundary=…")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.group(1).encode())
    contents = [piece.partition(b"\r\n\r\n")[2] for piece in pieces[1:] if not piece.startswith(b"--")]
    if not contents:
        raise HTTPException(400, "the body has no parts")
    return contents


def _found(node: Node, study_uid: str, series_uid: str = "", sop_uid: str = "") -> list[InstanceRow]:
    with node.database.snapshot() as session:
        instances = _instances(session, study_uid, series_uid, sop_uid)
    if not instances:
        raise HTTPException(404, "nothing with these UIDs is stored here")
    return instances


def _instances(
    session: Session, study_uid: str, series_uid: str = "", sop_uid: str = ""
) -> list[InstanceRow]:
    query = (
        select(InstanceRow)
        .join(StudyRow, InstanceRow.study_id == StudyRow.id)
        .where(StudyRow.uid == study_uid, InstanceRow.conflicting.is_(False))
        .order_by(InstanceRow.id)
    )
    if series_uid:
        query = query.where(InstanceRow.series_uid == series_uid)
    if sop_uid:
        query = query.where(InstanceRow.sop_uid == sop_uid)
    return list(session.execute(query).scalars())


def _study_answer(node: Node, study_uid: str, instances: Sequence[InstanceRow]) -> dict[str, Any]:
    series = {instance.series_uid for instance in instances}
    modalities = sorted({instance.modality for instance in instances})
    return {
        **_shown(node, study_uid, instances[0], _STUDY_TAGS),
        "00080061": {"vr": "CS", "Value": modalities},
        "00201206": {"vr": "IS", "Value": [len(series)]},
        "00201208": {"vr": "IS", "Value": [len(instances)]},
    }


def _shown(node: Node, study_uid: str, instance: InstanceRow, tags: Sequence[str]) -> dict[str, Any]:
    """Return what a list shows of an image; its UIDs alone where its file cannot be read.

    Left out, it would shift the pages of a client that counts what it has been given.
    """
    try:
        metadata = metadata_of(node.settings.home, instance.path)
    except Exception as error:  # one damaged file must not hide all others
        _log.warning("the header of %s cannot be read (%s)", instance.path, type(error).__name__)
        uids = {"0020000D": study_uid, "0020000E": instance.series_uid, "00080018": instance.sop_uid}
        metadata = {tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}
    return {tag: metadata[tag] for tag in tags if tag in metadata}


def _page(query: Mapping[str, str], *, usual: int, most: int = 2**53) -> slice:
    """Return which rows of a list are asked for; what is no number counts as not given.

    >>> _page({"offset": "100", "limit": "25"}, usual=100), _page({"limit": "all"}, usual=100)
    (slice(100, 125, None), slice(0, 100, None))
    """
    first, rows = _number(query, "offset", 0), _number(query, "limit", usual)
    return slice(first, first + min(most, rows))


def _number(query: Mapping[str, str], key: str, otherwise: int) -> int:
    given = query.get(key, "")
    return int(given) if re.fullmatch("[0-9]{1,15}", given) else otherwise


def _frames(dataset: Any) -> list[bytes]:
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        return list(generate_frames(dataset.PixelData, number_of_frames=count))
    size = len(dataset.PixelData) // count
    return [dataset.PixelData[k * size : (k + 1) * size] for k in range(count)]


def _multipart(contents: Iterator[bytes], kind: str) -> StreamingResponse:
    boundary = uuid.uuid4().hex

    def stream() -> Iterator[bytes]:
        for content in contents:
            yield f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    first = kind.split(";")[0]
    return StreamingResponse(stream(), media_type=f'multipart/related; type="{first}"; boundary={boundary}')


def _json(rows: Sequence[dict[str, Any]]) -> Response:
    return Response(json.dumps(rows), media_type=_JSON)
