"""The registry of targets: what is read on the CT grid."""
