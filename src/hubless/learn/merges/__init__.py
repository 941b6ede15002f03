"""Merges: what peers say to each other, and what an inbox amounts to."""

from hubless.learn.merges.coordinates import Median, TrimmedMean
from hubless.learn.merges.distil import Distil
from hubless.learn.merges.mean import WeightedMean, mean

__all__ = ["Distil", "Median", "TrimmedMean", "WeightedMean", "mean"]
