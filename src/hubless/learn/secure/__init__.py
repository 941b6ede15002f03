"""Secure aggregation: sums of messages that mean nothing one by one."""

from hubless.learn.secure.fixed_point import FixedPoint
from hubless.learn.secure.hiding import Hiding
from hubless.learn.secure.secure_sum import SecureSum

__all__ = ["FixedPoint", "Hiding", "SecureSum"]
