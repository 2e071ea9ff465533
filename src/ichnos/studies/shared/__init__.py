"""What the studies share: budget, labels, training, reading, rows, and the page."""
