"""anatomy: to be filled."""
