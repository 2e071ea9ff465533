"""Report: one self-contained HTML page, pictures, plots."""

from ichnos.report.page import reading_page, save_page
from ichnos.report.reader import Engine, read, read_with, with_report

__all__ = ["Engine", "read", "read_with", "reading_page", "save_page", "with_report"]
