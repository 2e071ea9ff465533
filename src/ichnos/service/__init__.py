"""service: to be filled."""
