"""The evidence pack: tables, figures, methods paragraph, checklists, one page."""
