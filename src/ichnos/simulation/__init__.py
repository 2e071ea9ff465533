"""simulation: to be filled."""
