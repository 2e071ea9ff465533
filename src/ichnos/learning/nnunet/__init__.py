"""The real nnU-Net v2 as an engine, and its results as Models of ours."""
