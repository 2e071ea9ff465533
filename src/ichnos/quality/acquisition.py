"""What the files declare about how the scan was made."""

from __future__ import annotations

from collections.abc import Iterator

from ichnos.scan import Scan, described_without_contrast, modality_name
from ichnos.verdict import Reason


def acquisition_reasons(scan: Scan) -> Iterator[Reason]:
    """Judge the modality and the contrast agent that the files declare."""
    acquisition = scan.acquisition
    is_ct = acquisition.modality == "CT"
    yield Reason(
        "modality",
        "pass" if is_ct else "refuse",
        "the modality is CT" if is_ct else f"the modality is {modality_name(acquisition.modality)}, not CT",
    )
    if acquisition.contrast_agent is None:
        yield Reason("contrast", "pass", "no contrast agent is declared", 0.0)
    elif described_without_contrast(acquisition.series_description or ""):
        yield Reason(
            "contrast", "warn", "a contrast agent is declared, though the series is described as without", 1.0
        )
    else:
        yield Reason("contrast", "refuse", "a contrast agent was given; a plain scan is needed", 1.0)
