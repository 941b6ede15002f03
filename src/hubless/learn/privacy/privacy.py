"""The privacy of a whole method: a rule that rebuilds it with protection in the right slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubless.parts import part

if TYPE_CHECKING:
    from hubless.learn.learning import Learning


@dataclass(frozen=True)
class Privacy:
    """No protection; subclasses put a gradient, codec stages, a reduce and an accountant where they belong."""

    def protect(self, learning: Learning) -> Learning:
        """The method with protection. Raises ConfigError where it cannot be had."""
        return learning


@part("privacy", "none")
def none() -> Privacy:
    """Nothing is protected."""
    return Privacy()
