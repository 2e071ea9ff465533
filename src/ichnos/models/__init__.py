"""models: to be filled."""
