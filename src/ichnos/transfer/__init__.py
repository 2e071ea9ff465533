"""transfer: to be filled."""
