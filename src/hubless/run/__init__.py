"""Runs: the record stream, the folder it fills, checkpoints, resuming."""
