"""Codecs: from message to bytes and back, in stages."""

from hubless.learn.codecs.bits import BitPack
from hubless.learn.codecs.clusters import KMeans
from hubless.learn.codecs.compressed import Deflate, Huffman, Zstd
from hubless.learn.codecs.delta import Delta
from hubless.learn.codecs.fedzip import BestOf, TopZ
from hubless.learn.codecs.feedback import ErrorFeedback
from hubless.learn.codecs.floats import Half
from hubless.learn.codecs.layers import Layers
from hubless.learn.codecs.pipeline import Codec, join
from hubless.learn.codecs.raw import Raw
from hubless.learn.codecs.rounding import Stochastic, Uniform
from hubless.learn.codecs.sparse import Threshold, TopK

__all__ = [
    "BestOf",
    "BitPack",
    "Codec",
    "Deflate",
    "Delta",
    "ErrorFeedback",
    "Half",
    "Huffman",
    "KMeans",
    "Layers",
    "Raw",
    "Stochastic",
    "Threshold",
    "TopK",
    "TopZ",
    "Uniform",
    "Zstd",
    "join",
]
