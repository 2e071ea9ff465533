"""One training loop: checkpoints, teams of processes, losses, schedule."""
