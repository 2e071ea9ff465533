"""Reading: masks become measures, each with a unit, an interval or a reason for none."""

from ichnos.reading.read import Reading, read
from ichnos.reading.record import Finding, Measure, Record

__all__ = ["Finding", "Measure", "Reading", "Record", "read"]
