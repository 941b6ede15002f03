"""Attacks: what hostile peers do instead."""

from hubless.learn.attacks.base import SignFlip, hostile, share, sign_flip

__all__ = ["SignFlip", "hostile", "share", "sign_flip"]
