"""Codecs: from message to bytes and back, in stages."""

from hubless.learn.codecs.bits import BitPack
from hubless.learn.codecs.pipeline import Codec, join
from hubless.learn.codecs.raw import Raw

__all__ = ["BitPack", "Codec", "Raw", "join"]
