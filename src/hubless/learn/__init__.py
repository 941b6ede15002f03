"""The learning engine: five slots, one loop, and the parts that fill the slots."""

from hubless.learn.codecs import Codec, Raw
from hubless.learn.context import Batch, Context, Inbox, Message, State
from hubless.learn.gradients import FGSM, PGD, SAM, Adversarial, ControlVariate, Plain, Proximal, RecursiveVR
from hubless.learn.learning import Learning
from hubless.learn.local import SGD, Adam
from hubless.learn.merges import Distil, Median, TrimmedMean, WeightedMean
from hubless.learn.model import Model
from hubless.learn.overlays import Alone, Gossip, Rotating, Scheduled, Star, aggregation
from hubless.learn.plan import Exchange, Overlay, Train
from hubless.learn.server import Scaffold, ServerOpt
from hubless.learn.slots import Attack, Gradient, Hook, Local, Merge, Reduce, Stage
from hubless.learn.workload import Workload

__all__ = [
    "FGSM",
    "PGD",
    "SAM",
    "SGD",
    "Adam",
    "Adversarial",
    "Alone",
    "Attack",
    "Batch",
    "Codec",
    "Context",
    "ControlVariate",
    "Distil",
    "Exchange",
    "Gossip",
    "Gradient",
    "Hook",
    "Inbox",
    "Learning",
    "Local",
    "Median",
    "Merge",
    "Message",
    "Model",
    "Overlay",
    "Plain",
    "Proximal",
    "Raw",
    "RecursiveVR",
    "Reduce",
    "Rotating",
    "Scaffold",
    "Scheduled",
    "ServerOpt",
    "Stage",
    "Star",
    "State",
    "Train",
    "TrimmedMean",
    "WeightedMean",
    "Workload",
    "aggregation",
]
