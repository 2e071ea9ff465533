"""registration: to be filled."""
