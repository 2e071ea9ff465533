"""inference: to be filled."""
