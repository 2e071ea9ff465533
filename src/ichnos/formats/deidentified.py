"""What may be told of a scan without telling whose it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ichnos import __version__
from ichnos.formats import nifti
from ichnos.formats.vocabulary import without_free_text
from ichnos.scan import Scan
from ichnos.verdict import Verdict

OLDEST_YEARS = 90  # higher ages are rare enough to point at a person (HIPAA Safe Harbor)


def sidecar_without_identity(scan: Scan, *, keep_names: bool = False) -> dict[str, Any]:
    """Return how a scan was made and how good it is, without names, numbers, dates and free text.

    Vendor and kernel are kept where they are among those that everybody knows; with `keep_names` as they are.
    """
    acquisition = scan.acquisition if keep_names else without_free_text(scan.acquisition)
    plain = nifti.sidecar_of(acquisition)
    plain.pop("ContrastBolusAgent", None)
    plain["ContrastDeclared"] = scan.acquisition.contrast_agent is not None
    if "age_years" in scan.facts:
        plain["AgeYears"] = min(float(scan.facts["age_years"]), OLDEST_YEARS)
    if "sex" in scan.facts:
        plain["Sex"] = scan.facts["sex"]
    if scan.quality is not None:
        plain["Quality"] = verdict_as_plain(scan.quality)
    plain["ConvertedBy"] = f"ichnos {__version__}, research use only"
    return plain


def verdict_as_plain(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain data; an undefined number is None, as JSON knows no NaN.

    >>> verdict_as_plain(Verdict())["reasons"]
    []
    """
    rows = [asdict(reason) for reason in verdict.reasons]
    for row in rows:
        if row["value"] is not None:
            row["value"] = None if row["value"] != row["value"] else round(row["value"], 3)
    return {"level": verdict.level, "reasons": rows}
