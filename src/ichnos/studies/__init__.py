"""studies: to be filled."""
