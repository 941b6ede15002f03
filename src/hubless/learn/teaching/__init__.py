"""Peers that teach each other: who teaches whom, what a lesson is, and what it was worth."""
