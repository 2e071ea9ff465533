"""Evidence: metrics with intervals, tables, figures, and the pack that says how far to trust a model."""
