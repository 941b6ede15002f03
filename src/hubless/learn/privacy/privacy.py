"""The privacy of a whole method: a rule that rebuilds it with protection in the right slots."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hubless.errors import ConfigError
from hubless.learn.privacy.accountant import Accountant, Spending
from hubless.parts import part
from hubless.run.record import Record

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


def positive(where: str, clip: float, noise: float) -> None:
    """Raise ConfigError for a bound or a noise that means nothing."""
    if not 0 < clip < math.inf:
        raise ConfigError(f"{where}.clip = {clip:g}: must be positive")
    if not 0 <= noise < math.inf:
        raise ConfigError(f"{where}.noise = {noise:g}: must not be negative")


@dataclass(frozen=True)
class Noise(Privacy):
    """Clipping and Gaussian noise, accounted for.

    Records are for whoever runs the experiment: no noise covers the losses and accuracies in them. Noise and samples
    follow from the run's seed, so that a run can be repeated; who knows the seed can take the noise away.

    clip:   norm of what is clipped
    noise:  standard deviation of the noise, as a multiple of clip; 0 only clips, and protects nobody
    delta:  the probability that epsilon does not cover
    budget: the epsilon above which no round may bring it; 0 sets no limit
    """

    clip: float
    noise: float
    delta: float = field(default=1e-5, kw_only=True)
    budget: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        positive("privacy", self.clip, self.noise)

    def accounted(self, learning: Learning, spending: Spending, said: str) -> Learning:
        """The method with an accountant, and what is accounted for told at the start, in words.

        It comes before the other hooks, which may ask what the round has told.
        """
        accountant = Accountant(spending, delta=self.delta, budget=self.budget)
        text = f"privacy: {said}" if self.noise else "privacy: without noise, nothing is private"
        told = Record("event", 0, data={"text": text, "level": "info"})
        return replace(learning, hooks=(accountant, *learning.hooks), figures=(told, *learning.figures))
