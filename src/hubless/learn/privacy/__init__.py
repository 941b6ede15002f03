"""Privacy: what protects a peer's data in what it sends, and how much."""

from hubless.learn.privacy.accountant import Accountant, Spending
from hubless.learn.privacy.coordinates import Clip
from hubless.learn.privacy.dpsgd import DPSGD, PrivateSteps
from hubless.learn.privacy.gaussian import CentralNoise, ClippedSum, LocalNoise, Noised
from hubless.learn.privacy.pbm import PBM
from hubless.learn.privacy.privacy import Privacy
from hubless.learn.privacy.renyi import RenyiAccountant
from hubless.learn.privacy.rqm import RQM, Rounding, calibrate
from hubless.learn.privacy.spent import Spent

__all__ = [
    "DPSGD",
    "PBM",
    "RQM",
    "Accountant",
    "CentralNoise",
    "Clip",
    "ClippedSum",
    "LocalNoise",
    "Noised",
    "Privacy",
    "PrivateSteps",
    "RenyiAccountant",
    "Rounding",
    "Spending",
    "Spent",
    "calibrate",
]
