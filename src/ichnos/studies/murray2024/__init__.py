"""Murray 2024: the corticospinal tract on CT, its injury, and outcome."""
