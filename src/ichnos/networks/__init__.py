"""networks: one architecture per file, plain-data arguments, no trainer imported."""
