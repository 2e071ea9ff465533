"""networks: to be filled."""
