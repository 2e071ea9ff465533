"""The evidence pack: every section computed, and written as tables, figures, numbers, a methods paragraph
and one page.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ichnos import __version__
from ichnos.cohort import Cohort
from ichnos.errors import UsageError
from ichnos.evidence.metrics.summary import column
from ichnos.evidence.pack.cases import measure_cases
from ichnos.evidence.pack.checklists import checklists
from ichnos.evidence.pack.flags import Flag, check_pair
from ichnos.evidence.pack.gallery import gallery_section
from ichnos.evidence.pack.page import render_page
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.evidence.pack.predictions import Study, gather
from ichnos.evidence.pack.section_masks import mask_sections
from ichnos.evidence.pack.section_measures import grade_section, measure_sections, regression_section
from ichnos.evidence.pack.section_models import models_section
from ichnos.evidence.pack.section_outcomes import outcome_sections
from ichnos.evidence.pack.sections import Section, cohort_section
from ichnos.evidence.tables import Table
from ichnos.files import atomic_file
from ichnos.runs import Summary


@dataclass(frozen=True, eq=False)
class Pack:
    """What was computed and where it lies."""

    out: Path
    page: Path
    sections: tuple[Section, ...]
    flags: tuple[Flag, ...]
    failures: tuple[str, ...]  # cases that could not be measured, with the reason
    cases: int

    def numbers(self) -> dict[str, Any]:
        """Return every number by section, as evidence.json holds them."""
        return {
            "ichnos": __version__,
            "cases": self.cases,
            "failures": list(self.failures),
            "flags": [dataclasses.asdict(flag) for flag in self.flags],
            "sections": {s.name: _plain(s.numbers) for s in self.sections if s.numbers},
        }


def evaluate(
    predictions: str | Path,
    cohorts: Sequence[Cohort],
    out: str | Path,
    *,
    plan: EvidencePlan | None = None,
    training: str | Path | None = None,
    against: str | Path | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Pack:
    """Evaluate a folder of predictions on cohorts and write the pack into `out`; `against` is a second model
    on the same cases.

    A run that was interrupted goes on where it stopped. Leakage, and predictions that match no cohort, refuse
    before anything is written.
    """
    plan, out = plan or EvidencePlan(), Path(out)
    study = gather(predictions, cohorts, plan, training=training)
    rival = gather(against, cohorts, plan) if against is not None else None
    if out.exists() and any(out.iterdir()) and not (out / ".ichnos").is_dir():
        raise UsageError(
            f"{out} holds other files; give a new or empty folder, or one that an earlier evaluation began"
        )
    out.mkdir(parents=True, exist_ok=True)
    measured = measure_cases(study.cases, plan, out, workers=workers, progress=progress)
    other = (
        measure_cases(rival.cases, plan, out / "against", workers=workers, progress=progress)
        if rival
        else None
    )
    study = _with_measured_volumes(study, measured.rows)
    sections = _sections(study, measured, rival, other)
    failures = tuple(f"{f.id}: {f.why}" for f in measured.failures)
    flags = (*_failure_flags(failures), *_claim_flags(study), *(flag for s in sections for flag in s.flags))
    lists = checklists(study, sections)
    page = _write(out, study, sections, flags, lists, measured)
    pack = Pack(out, page, sections, flags, failures, len(study.cases))
    _write_text(out / "evidence.json", json.dumps(pack.numbers(), indent=2, ensure_ascii=False) + "\n")
    return pack


def _sections(
    study: Study, measured: Summary, rival: Study | None, other: Summary | None
) -> tuple[Section, ...]:
    found: list[Section | None] = [
        cohort_section(study),
        *mask_sections(study, measured.rows),
        *outcome_sections(study),
        *measure_sections(study),
    ]
    found += [grade_section(study), regression_section(study)]
    if rival is not None and other is not None:
        found.append(models_section(study, measured.rows, rival, other.rows))
    found.append(gallery_section(study, measured.rows))
    return tuple(section for section in found if section is not None)


def _with_measured_volumes(study: Study, rows: Sequence[Mapping[str, Any]]) -> Study:
    """Take the volumes that define expansion from the true masks where the cohort's table does not hold
    them.
    """
    sources = {"haematoma ICH": 0, "expansion ICH": 1}
    table = study.table
    by_id = {str(row["id"]): row for row in rows}
    ordered = [by_id.get(case.id, {}) for case in study.cases]
    for name, at in sources.items():
        wanted = study.plan.volume_columns[at]
        values = column(ordered, name, "truth_ml")
        if wanted not in table.columns and any(not math.isnan(v) for v in values):
            table = table.assign(**{wanted: values})
    return dataclasses.replace(study, table=table)


def _failure_flags(failures: Sequence[str]) -> tuple[Flag, ...]:
    if not failures:
        return ()
    return (
        Flag(
            "alarm",
            "not_measured",
            f"{len(failures)} case(s) could not be measured and are left out; the first: {failures[0]}",
        ),
    )


def _claim_flags(study: Study) -> tuple[Flag, ...]:
    claims = study.claims
    if {"dice", "iou"} <= set(claims) and (
        flag := check_pair(claims["dice"], claims["iou"], of="mean")
    ) is not None:
        return (dataclasses.replace(flag, text=f"Claimed by the model's card: {flag.text}"),)
    return ()


def _write(
    out: Path,
    study: Study,
    sections: Sequence[Section],
    flags: Sequence[Flag],
    lists: Sequence[Table],
    measured: Summary,
) -> Path:
    for folder in ("tables", "figures"):
        (out / folder).mkdir(exist_ok=True)
    for table in (*(t for s in sections for t in s.tables), *lists):
        for ending, text in (("csv", table.csv()), ("md", table.markdown()), ("tex", table.latex())):
            _write_text(out / "tables" / f"{table.name}.{ending}", text)
    for figure in (f for s in sections for f in s.figures):
        (out / "figures" / f"{figure.name}.png").write_bytes(figure.png)
        if study.plan.vector_figures:
            (out / "figures" / f"{figure.name}.pdf").write_bytes(figure.pdf())
    methods = methods_paragraph(sections)
    _write_text(out / "methods.md", methods + "\n")
    _write_text(out / "plan.json", study.plan.model_dump_json(indent=2) + "\n")
    _write_text(out / "cases.csv", _cases_csv(measured))
    page = out / "report.html"
    _write_text(page, render_page(study, sections, flags=flags, methods=methods, lists=lists))
    return page


def methods_paragraph(sections: Sequence[Section]) -> str:
    """Join the sections' sentences, each once, into the paragraph for a paper."""
    told = list(dict.fromkeys(sentence for section in sections for sentence in section.methods))
    return " ".join([*told, f"Analyses were run with ichnos {__version__}."])


def _cases_csv(measured: Summary) -> str:
    """Lay every case out in one row, measures named "target label.measure"."""
    import csv
    import io

    flat = [
        {"patient": row["id"], **_flat({k: v for k, v in row.items() if k != "id"})} for row in measured.rows
    ]
    out = io.StringIO()
    table = csv.DictWriter(
        out,
        list(dict.fromkeys(key for row in flat for key in row)) or ["patient"],
        lineterminator="\n",
        restval="",
    )
    table.writeheader()
    table.writerows(flat)
    return out.getvalue()


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            found[prefix + key] = "" if isinstance(value, float) and math.isnan(value) else value
    return found


def _plain(value: Any) -> Any:
    """Return plain JSON data; what is undefined becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
