"""Merging models by their weights: rules a tensor at a time, whole models, and checkpoints on disk."""

from hubless.merging.averages import Mean, Slerp
from hubless.merging.merge import merge
from hubless.merging.rule import Beside, Draw, Rule, seeded
from hubless.merging.statistical import Fisher, RegMean
from hubless.merging.statistics import fishers, grams
from hubless.merging.task_vectors import Dare, DareTies, TaskArithmetic, TaskVectors, Ties

__all__ = [
    "Beside",
    "Dare",
    "DareTies",
    "Draw",
    "Fisher",
    "Mean",
    "RegMean",
    "Rule",
    "Slerp",
    "TaskArithmetic",
    "TaskVectors",
    "Ties",
    "fishers",
    "grams",
    "merge",
    "seeded",
]
