"""May this scan be read? pass, warn or refuse, with reasons."""
