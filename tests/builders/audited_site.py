"""A site of one patient with stored readings, and a transfer that gives known targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builders.audited import box, grid, measure, store_reading
from ichnos.audit import followups
from ichnos.audit import run as audit_run
from ichnos.formats import bids
from ichnos.transfer.run import CohortTransfer
from ichnos.volume import Volume, volume_ml

OUTLINED_ML = 9.5  # at follow-up, by people's outlines: beyond the interval that was given


@dataclass(frozen=True)
class Site:
    """A cohort with stored readings, and what transfer would give."""

    root: Path
    readings: Path
    ct: Volume


def build_site(tmp_path: Path) -> Site:
    """Write one patient with a follow-up and a FLAIR, and the readings of both CTs."""
    root, readings, ct = tmp_path / "cohort", tmp_path / "readings", grid()
    followup, flair = grid(31.0), grid(100.0)
    for exam, volume in (("ct", ct), ("followup", followup), ("flair", flair)):
        bids.write_exam(root, "A1", exam, volume)  # type: ignore[arg-type]
    (root / "participants.tsv").write_text(
        "participant_id\tcentre\tscanner\tmonth\nsub-A1\tnorth\tX\t2026-03\n"
    )
    tracts = {f"tract_{side}": box(ct, 8) for side in ("left", "right")}
    measures = (
        measure("ich_volume", volume_ml(box(ct, 8)), 3.0, 6.0),
        measure("followup_volume", 6.0, 4.0, 9.0),
        measure("expansion_probability", 40.0),
        measure("leukoaraiosis_volume", 2.0, 1.0, 3.0),
        measure("injury_left", "no risk"),
    )
    masks = {"ICH": box(ct, 8), "expansion": box(ct, 10), "leukoaraiosis": box(ct, 6), **tracts}
    store_reading(readings / "first", ct, measures, masks)
    store_reading(readings / "later", followup, (measure("ich_volume", 7.0, 5.0, 9.0),), {"ICH": box(ct, 12)})
    return Site(root, readings, ct)


def transferred(site: Site, monkeypatch: pytest.MonkeyPatch, **verdicts: str) -> list[dict[str, Any]]:
    """Let transfer give known targets; return the calls that were made."""
    calls: list[dict[str, Any]] = []

    def stand_in(root: Path, targets: Any, *, settings: Any, out: Path, **more: Any) -> Any:
        calls.append({"root": root, "targets": targets, "given": settings.given, **more})
        for label, kind, stop in (("expansion", "dseg", 12), ("leukoaraiosis", "mask", 6)):
            bids.write_derivative(out, "A1", box(site.ct, stop), pipeline="transfer", label=label, kind=kind)  # type: ignore[arg-type]
        seen_ml = OUTLINED_ML if settings.given == ("manual",) else 7.5
        numbers = {"followup_ich_ml": seen_ml, "expanded 33%-or-6ml": 1, "leukoaraiosis_ml": 3.5}
        rows = [
            {"id": f"A1-{t}", "verdict": verdicts.get(t, "pass"), "causes": "doubt", **numbers}
            for t in targets
        ]
        return CohortTransfer(tuple(rows), (), out / "index.html", None, 0.0)

    monkeypatch.setattr(audit_run, "transfer_cohort", stand_in)
    monkeypatch.setattr(followups, "transfer_cohort", stand_in)
    return calls


def outline(site: Site, *exams: str) -> None:
    """Let a person outline the haematoma of these CTs."""
    for exam in exams:
        drawn = box(site.ct, 8)
        bids.write_derivative(
            site.root, "A1", drawn, pipeline="manual", label="haematoma", kind="dseg", exam=exam  # type: ignore[arg-type]
        )  # fmt: skip
