"""Merges: what peers say to each other, and what an inbox amounts to."""

from hubless.learn.merges.coordinates import Median, TrimmedMean
from hubless.learn.merges.distil import Distil
from hubless.learn.merges.krum import Krum, MultiKrum
from hubless.learn.merges.mean import WeightedMean, mean
from hubless.learn.merges.points import Points, Sharing

__all__ = ["Distil", "Krum", "Median", "MultiKrum", "Points", "Sharing", "TrimmedMean", "WeightedMean", "mean"]
