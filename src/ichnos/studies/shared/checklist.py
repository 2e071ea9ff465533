"""The reviewer's checklists of a study, TRIPOD+AI and CLAIM, filled by the run; no row is empty."""

from __future__ import annotations

from collections.abc import Mapping

from ichnos.evidence.pack.checklists import filled_checklists
from ichnos.evidence.tables import Table
from ichnos.studies.shared.page import StudyPage
from ichnos.studies.shared.record import StudyRecord

_SIMULATED = "Does not apply: the patients are simulated."
_OWN = "For the group whose cohort it is: nothing in the cohort's files says it."
_COMMAND = "Printed by `ichnos study` from the stored run (--from-run FOLDER)."
# What no run can know, and who answers it instead.
_REASONS: Mapping[str, str] = {
    "Title": "The page's title names the question and the paper.",
    "Abstract": "The page has no abstract; its design and tables are its summary.",
    "Context": "See docs/studies.md, the paper cited on the page.",
    "Background": "See docs/studies.md, the paper cited on the page.",
    "Intended use": "Research use only; no conclusion about a patient can be drawn.",
    "Choice of predictors": "The paper's, and those named in the page's design.",
    "Definition of predictors": "docs/evidence.md and the docstrings of the measures.",
    "Predictors in the analysis": "Named in each table's rows or notes.",
    "Model type": "The page's design; the recipe stands in its provenance.",
    "Training, selection": "The page's design; the curves of every training are drawn on it.",
    "Internal validation": "Folds or validation patients, as the page's design says.",
    "Preprocessing": "docs/training.md; the settings are saved beside each model.",
    "Interpretation": "docs/studies.md, for runs that converged.",
    "Use in practice": "None: research use only.",
    "Fairness": "Not analysed beyond the groups that the tables show.",
    "Comparison with development": "The provenance counts patients by split.",
    "Image acquisition": "docs/simulation.md for simulated CTs; the sidecar of each CT otherwise.",
    "Registration": "Not registered.",
    "Protocol": "The study's docstring is its protocol; code and settings are public.",
    "Funding": "To be named by whoever publishes it; the code is public.",
}


def study_checklists(record: StudyRecord, page: StudyPage) -> tuple[Table, Table]:
    """Return both checklists with what the run knows; every other row says why it has no answer."""
    return filled_checklists(_known(record, page), lambda subject: _reason(subject, record))


def _reason(subject: str, record: StudyRecord) -> str:
    said = next((text for start, text in _REASONS.items() if subject.startswith(start)), "")
    return said or (_SIMULATED if record.simulated else _OWN)


def _known(record: StudyRecord, page: StudyPage) -> dict[str, str]:
    provenance = record.provenance
    tables = ", ".join(table.name for table in page.tables)
    flat = sum(curve.flat for curve in record.curves)
    curves = f" {flat} of {len(record.curves)} training curves had stopped rising." if record.curves else ""
    source = "Simulated patients (docs/simulation.md)" if record.simulated else "The user's own cohort"
    weights = [f"{k[11:]}: {v}" for k, v in provenance.items() if str(k).startswith("weights of ")]
    return {
        "objective": f"Development and evaluation: {page.title}",
        "sources": f"{source}: {provenance.get('patients', 'counted in the design')}.",
        "centres": f"By split: {provenance.get('patients', 'see the design')}; centres stand in the tables.",
        "outcome": page.design[0] if page.design else "See the tables.",
        "events": f"See the design and the tables. {provenance.get('patients', '')}".strip(),
        "missing": "Patients without a label are left out and counted; each table states its number.",
        "leakage": "The run refuses a patient, person or CT in two splits; folds are of patients.",
        "heterogeneity": "Per centre or group, in the tables that name them.",
        "measures": f"Tables {tables}; every measure is defined in docs/evidence.md.",
        "intervals": f"95 % intervals; how each is made stands in the note of its table. {_COMMAND}",
        "recalibration": "Stated in the design where it is done.",
        "model": "; ".join(weights) if weights else f"Models folder of the run.{curves}",
        "imbalance": "Stated in the design; the arms name their ratio.",
        "threshold": "Chosen on patients who are not evaluated, as the tables' notes say.",
        "shift": "External patients are of other centres and scanners where the cohort has them.",
        "flow": f"{provenance.get('patients', 'see the design')}.",
        "characteristics": "participants.tsv of the cohort.",
        "performance": f"Tables {tables}.{curves}",
        "gallery": ", ".join(p.name for p in page.pictures) or "The run drew no pictures.",
        "flags": " ".join(page.limits) or "None was raised.",
    }
