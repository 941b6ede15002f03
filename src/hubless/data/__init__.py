"""Data sets with checksums, and how they are split among peers."""
