"""The sections of the evidence pack, one file each; those on outcomes have a folder of their own."""
