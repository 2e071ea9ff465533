"""learning: to be filled."""
