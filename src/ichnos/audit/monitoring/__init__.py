"""Live evidence: what may be looked at every day, what has changed, who is judged, one page."""
