"""formats: to be filled."""
