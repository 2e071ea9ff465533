"""Reading: masks become measures, each with a unit, an interval or a reason for none."""

from ichnos.reading.read import TARGETS, Reading, chosen_targets, read, refused
from ichnos.reading.record import Finding, Measure, Record

__all__ = ["TARGETS", "Finding", "Measure", "Reading", "Record", "chosen_targets", "read", "refused"]
