"""Other systems: destinations of results, and the archive that is asked for earlier studies."""
