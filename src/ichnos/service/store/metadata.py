"""Metadata of images as DICOM JSON, made once and kept beside the image: viewers ask for it often."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

from pydicom import Dataset, dcmread
from pydicom.tag import BaseTag

from ichnos.files import atomic_file

_BULK_BYTES = 1024  # longer values are left out, as a viewer fetches them by themselves
_log = logging.getLogger(__name__)


def metadata_of(home: Path, image: str) -> dict[str, Any]:
    """Return the attributes of an image (path below the home) without pixels, in DICOM JSON (PS3.18 F).

    What does not parse is left out and logged by its tag.
    """
    file = (home / image).with_suffix(".json")
    if file.is_file():
        return cast(dict[str, Any], json.loads(file.read_text(encoding="utf-8")))
    dataset = dcmread(home / image, stop_before_pixels=True)
    kept = {f"{tag:08X}": value for tag in list(dataset.keys()) if (value := _in_json(dataset, tag, image))}
    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps(kept, separators=(",", ":")), encoding="utf-8")
    return kept


def _in_json(dataset: Dataset, tag: BaseTag, image: str) -> dict[str, Any]:
    """Return one attribute; nothing for bulk data and for what does not parse.

    pydicom's own `suppress_invalid_tags` reads strictly: it would leave out a place with one digit too many.
    """
    try:
        value = dataset[tag].to_json_dict(
            bulk_data_threshold=_BULK_BYTES, bulk_data_element_handler=lambda _: ""
        )
        json.dumps(value, allow_nan=False)
    except Exception as error:  # a header may be malformed in any way
        _log.warning("%s: %08X is left out of its metadata (%s)", image, tag, type(error).__name__)
        return {}
    return {} if "BulkDataURI" in value else value
