"""The evidence pack: every section computed, and written as tables, figures, numbers, a methods paragraph
and one page.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ichnos import __version__
from ichnos.cohort import Cohort
from ichnos.errors import UsageError
from ichnos.evidence.pack.cases import TRUE, measure_cases
from ichnos.evidence.pack.checklists import checklists
from ichnos.evidence.pack.evaluation import Evaluation, EvaluationCase, gather
from ichnos.evidence.pack.flags import ReviewFlag, check_pair
from ichnos.evidence.pack.outcomes.section import outcome_sections
from ichnos.evidence.pack.page import render_page
from ichnos.evidence.pack.plan import EvidencePlan
from ichnos.evidence.pack.readings import worse_grade
from ichnos.evidence.pack.section import Section
from ichnos.evidence.pack.sections.cohort import cohort_section
from ichnos.evidence.pack.sections.comparison import comparison_section
from ichnos.evidence.pack.sections.gallery import gallery_section
from ichnos.evidence.pack.sections.masks import mask_sections
from ichnos.evidence.pack.sections.measures import grade_section, interval_section, measure_sections
from ichnos.evidence.pack.sections.models import models_section
from ichnos.evidence.pack.sections.regressions import regression_section
from ichnos.files import atomic_file
from ichnos.runs import Summary


@dataclass(frozen=True, eq=False)
class Pack:
    """What was computed and where it lies."""

    out: Path
    page: Path
    sections: tuple[Section, ...]
    flags: tuple[ReviewFlag, ...]
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


def write_evidence(
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
    """Evaluate readings or predictions on cohorts and write the evidence pack into `out`.

    `predictions` is the folder that `ichnos read` wrote, or one with predictions.csv; `against` is such a
    folder of a second model. An interrupted run is resumed. Leakage, and predictions that match no cohort,
    are refused before anything is written.
    """
    plan, out = plan or EvidencePlan(), Path(out)
    evaluation = gather(predictions, cohorts, plan, training=training)
    rival = gather(against, cohorts, plan) if against is not None else None
    claim_folder(out)
    measure = partial(measure_cases, plan=plan, workers=workers, progress=progress)
    measured = measure(evaluation.cases, out=out)
    other = measure(rival.cases, out=out / "against") if rival else None
    tuned = measure(evaluation.tuning, out=out, name="tune")
    evaluation = _with_measured_facts(evaluation, measured.rows, tuned.rows)
    sections = _sections(evaluation, measured, rival, other)
    pack = _pack(out, evaluation, sections, measured)
    _write(pack, evaluation, measured)
    return pack


def _pack(out: Path, evaluation: Evaluation, sections: tuple[Section, ...], measured: Summary) -> Pack:
    failures = tuple(f"{f.id}: {f.why}" for f in measured.failures)
    raised = (flag for section in sections for flag in section.flags)
    flags = (*_failure_flags(failures), *_claim_flags(evaluation), *raised)
    return Pack(out, out / "report.html", sections, flags, failures, len(evaluation.cases))


def claim_folder(out: Path) -> None:
    """Make the folder of an evidence pack; one that holds other files is refused."""
    if out.exists() and any(out.iterdir()) and not (out / ".ichnos").is_dir():
        raise UsageError(
            f"{out} holds other files; give a new or empty folder, or one that an earlier evaluation began"
        )
    (out / ".ichnos").mkdir(parents=True, exist_ok=True)


def _sections(
    evaluation: Evaluation, measured: Summary, rival: Evaluation | None, other: Summary | None
) -> tuple[Section, ...]:
    sections: list[Section | None] = [
        cohort_section(evaluation),
        comparison_section(evaluation, measured.rows),
        *mask_sections(evaluation, measured.rows),
        *outcome_sections(evaluation),
        *measure_sections(evaluation),
    ]
    sections += [grade_section(evaluation), interval_section(evaluation), regression_section(evaluation)]
    if rival is not None and other is not None:
        sections.append(models_section(evaluation, measured.rows, rival, other.rows))
    sections.append(gallery_section(evaluation, measured.rows))
    return tuple(section for section in sections if section is not None)


def _with_measured_facts(
    evaluation: Evaluation, rows: Sequence[Mapping[str, Any]], tuning_rows: Sequence[Mapping[str, Any]]
) -> Evaluation:
    """Take volumes and tract injuries from the true masks where the cohort's table does not hold them."""
    table = _with_facts(evaluation.table, evaluation.cases, rows)
    if "injury" not in table.columns and {"injury_left", "injury_right"} <= set(table.columns):
        sides = zip(table["injury_left"], table["injury_right"], strict=True)
        table = table.assign(injury=[worse_grade(*pair) for pair in sides])
    tuning = _with_facts(evaluation.calibration_table, evaluation.tuning, tuning_rows)
    return dataclasses.replace(evaluation, table=table, calibration_table=tuning)


def _with_facts(table: Any, cases: Sequence[EvaluationCase], rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return a table with the columns that were measured on the true masks of its patients."""
    by_id = {str(row["id"]): row for row in rows}
    ordered = [by_id.get(case.id, {}) for case in cases]
    for key in dict.fromkeys(key for row in ordered for key in row if key.startswith(TRUE)):
        fact = key.removeprefix(TRUE)
        if fact not in table.columns:
            table = table.assign(**{fact: [row.get(key) for row in ordered]})
    return table


def _failure_flags(failures: Sequence[str]) -> tuple[ReviewFlag, ...]:
    if not failures:
        return ()
    return (
        ReviewFlag(
            "alarm",
            "not_measured",
            f"{len(failures)} case(s) could not be measured and are left out; the first: {failures[0]}",
        ),
    )


def _claim_flags(evaluation: Evaluation) -> tuple[ReviewFlag, ...]:
    claims = evaluation.claims
    if {"dice", "iou"} <= set(claims) and (
        flag := check_pair(claims["dice"], claims["iou"], of="mean")
    ) is not None:
        return (dataclasses.replace(flag, text=f"Claimed by the model's card: {flag.text}"),)
    return ()


def _write(pack: Pack, evaluation: Evaluation, measured: Summary) -> None:
    out, sections, lists = pack.out, pack.sections, checklists(evaluation, pack.sections)
    for folder in ("tables", "figures"):
        (out / folder).mkdir(exist_ok=True)
    for table in (*(t for s in sections for t in s.tables), *lists):
        for ending, text in (("csv", table.csv()), ("md", table.markdown()), ("tex", table.latex())):
            _write_text(out / "tables" / f"{table.name}.{ending}", text)
    for figure in (f for s in sections for f in s.figures):
        (out / "figures" / f"{figure.name}.png").write_bytes(figure.png)
        if evaluation.plan.vector_figures:
            (out / "figures" / f"{figure.name}.pdf").write_bytes(figure.pdf())
    methods = methods_paragraph(sections)
    _write_text(out / "methods.md", methods + "\n")
    _write_text(out / "plan.json", evaluation.plan.model_dump_json(indent=2) + "\n")
    _write_text(out / "cases.csv", _cases_csv(measured))
    page = render_page(evaluation, sections, flags=pack.flags, methods=methods, lists=lists)
    _write_text(pack.page, page)
    _write_text(out / "evidence.json", json.dumps(pack.numbers(), indent=2, ensure_ascii=False) + "\n")


def methods_paragraph(sections: Sequence[Section]) -> str:
    """Join the sections' sentences, each once, into the paragraph for a paper."""
    sentences = list(dict.fromkeys(sentence for section in sections for sentence in section.methods))
    return " ".join([*sentences, f"Analyses were run with ichnos {__version__}."])


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
    cells: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            cells |= _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            cells[prefix + key] = "" if isinstance(value, float) and math.isnan(value) else value
    return cells


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
