"""Reading: masks become measures, each with a unit, an interval or a reason for none."""

from ichnos.reading.read import READERS, chosen_findings, read_scan, refused
from ichnos.reading.record import Finding, Measure, Record
from ichnos.reading.result import Reading

__all__ = ["READERS", "Finding", "Measure", "Reading", "Record", "chosen_findings", "read_scan", "refused"]
