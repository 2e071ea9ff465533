"""evidence: to be filled."""
