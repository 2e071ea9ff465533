"""May this scan be read? Slices, acquisition, head, HU, motion: one verdict with a number for each reason."""

from ichnos.quality.scan_verdict import judge

__all__ = ["judge"]
