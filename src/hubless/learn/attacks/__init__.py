"""Attacks: what hostile peers do instead.

``peers`` comes first in every attack's name: a share such as 20%, or ids such as 3+7.
"""

from hubless.learn.attacks.around import Around, ModelReplacement, Sybil
from hubless.learn.attacks.backdoor import Backdoor, Trigger
from hubless.learn.attacks.base import hostile, share
from hubless.learn.attacks.colluding import ALIE, IPM
from hubless.learn.attacks.idle import FreeRider, Replay
from hubless.learn.attacks.labels import LabelFlip
from hubless.learn.attacks.mirage import Detector, Mirage
from hubless.learn.attacks.outright import NegativeModel, RandomModel
from hubless.learn.attacks.updates import Noise, Scaling, SignFlip, sign_flip

__all__ = [
    "ALIE",
    "IPM",
    "Around",
    "Backdoor",
    "Detector",
    "FreeRider",
    "LabelFlip",
    "Mirage",
    "ModelReplacement",
    "NegativeModel",
    "Noise",
    "RandomModel",
    "Replay",
    "Scaling",
    "SignFlip",
    "Sybil",
    "Trigger",
    "hostile",
    "share",
    "sign_flip",
]
