"""What keeps a node in order: retention and purge, leftovers, backup and restore, audit export."""
