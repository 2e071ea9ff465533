"""reading: to be filled."""
