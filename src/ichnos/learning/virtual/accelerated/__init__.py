"""Default weights in minutes on one GPU: processes simulate patients, the GPU scans them and learns."""
