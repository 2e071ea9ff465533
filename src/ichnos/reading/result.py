"""A Reading: the record of a scan with the masks that belong to it."""

from __future__ import annotations

from dataclasses import dataclass

from ichnos.reading.masks import Masks
from ichnos.reading.record import Finding, Record
from ichnos.scan import Scan


@dataclass(frozen=True, eq=False, repr=False)
class Reading:
    """What a model says of one scan."""

    record: Record
    scan: Scan | None  # None where it could not be opened
    masks: Masks | None  # None where the scan was refused

    def finding(self, target: str) -> Finding:
        """Return the finding of a target; an unknown one is refused with the choices."""
        return self.record.finding(target)

    def __repr__(self) -> str:
        if self.record.status == "refused":
            return f"Reading({self.record.name!r}, refused: {self.record.refusal})"
        found = ", ".join(f"{finding.target}: {finding.status}" for finding in self.record.findings)
        return f"Reading({self.record.name!r}, {found})"
