"""Metadata of images as DICOM JSON, made once and kept beside the image: viewers ask for it often."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from pydicom import dcmread

from ichnos.files import atomic_file

_BULK_BYTES = 1024  # longer values are left out, as a viewer fetches them by themselves


def metadata_of(home: Path, image: str) -> dict[str, Any]:
    """Return the attributes of an image (path below the home) without pixels, in DICOM JSON (PS3.18 F)."""
    file = (home / image).with_suffix(".json")
    if file.is_file():
        return cast(dict[str, Any], json.loads(file.read_text(encoding="utf-8")))
    dataset = dcmread(home / image, stop_before_pixels=True)
    attributes = dataset.to_json_dict(bulk_data_threshold=_BULK_BYTES, bulk_data_element_handler=lambda _: "")
    kept = {tag: value for tag, value in attributes.items() if "BulkDataURI" not in value}
    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps(kept, separators=(",", ":")), encoding="utf-8")
    return kept
