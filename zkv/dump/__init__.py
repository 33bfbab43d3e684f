"""Dumps: the contents of a cluster as a file, and back."""
