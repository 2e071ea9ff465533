"""What the verbs share: settings and their flags, tables, progress."""
