"""What a user names: scans wherever they lie, and the facts known besides them."""
