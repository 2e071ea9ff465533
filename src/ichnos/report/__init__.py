"""Report: one self-contained HTML page, pictures, plots."""
