"""Report: one self-contained HTML page, pictures, plots."""

from ichnos.report.page import reading_page

__all__ = ["reading_page"]
