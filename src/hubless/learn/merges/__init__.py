"""Merges: what peers say to each other, and what an inbox amounts to."""

from hubless.learn.merges.clipping import CentredClip, ClippedGossip, NormClip
from hubless.learn.merges.coordinates import Median, TrimmedMean
from hubless.learn.merges.distil import Distil
from hubless.learn.merges.flame import Flame
from hubless.learn.merges.foolsgold import FoolsGold, foolsgold_weights
from hubless.learn.merges.geometric import GeometricMedian
from hubless.learn.merges.krum import Krum, MultiKrum
from hubless.learn.merges.mean import WeightedMean, mean
from hubless.learn.merges.points import Points, Sharing
from hubless.learn.merges.task_vectors import Tensorwise

__all__ = [
    "CentredClip",
    "ClippedGossip",
    "Distil",
    "Flame",
    "FoolsGold",
    "GeometricMedian",
    "Krum",
    "Median",
    "MultiKrum",
    "NormClip",
    "Points",
    "Sharing",
    "Tensorwise",
    "TrimmedMean",
    "WeightedMean",
    "foolsgold_weights",
    "mean",
]
