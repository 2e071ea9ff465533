"""What happens to a head: who bleeds and how it grows, older lesions, mass effect, the clinical row."""
