"""Trials of the network's parts at the scale of their claims: each builds a world, runs it, and says what it found."""
