"""Privacy: what protects a peer's data in what it sends, and how much."""

from hubless.learn.privacy.privacy import Privacy

__all__ = ["Privacy"]
