"""Renyi divergences of the Gaussian mechanism, with and without sampling.

All are for data sets of the same, public size in which ONE record is replaced by any other. A sum of vectors of norm C
at most then moves by 2 C at most, so noise of ``multiplier * C`` is ``multiplier / 2`` times the sensitivity. Figures
for records that are added or removed (sensitivity C, as Opacus and TensorFlow Privacy print them) are those of half the
multiplier here. Numbers are taken to be real: the rounding of floats (Mironov 2012) is not accounted for.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from hubless.errors import ConfigError
from hubless.learn.slots import Mechanism


def accounting() -> Any:
    """The package ``dp_accounting``. Raises ConfigError when it is missing."""
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError:
        raise ConfigError(
            "privacy: accounting needs a package that is missing: pip install 'hubless[privacy]'"
        ) from None
    return dp_accounting


def gaussian(multiplier: float, times: float = 1) -> Mechanism:
    """``times`` uses of Gaussian noise on a sum of vectors of norm C; its standard deviation is ``multiplier * C``.

    ``alpha s^2 / (2 sigma^2)`` with s the sensitivity (arXiv 1702.07476, proposition 7): ``2 alpha / multiplier^2``.
    """
    return lambda alpha: 2 * times * alpha / multiplier**2 if multiplier else math.inf


def sampled(size: int, drawn: int, multiplier: float, times: int = 1, uses: int = 1) -> Mechanism:
    """As ``gaussian``, each time on ``drawn`` records sampled without replacement from ``size`` of them.

    uses: of the noise on one sample

    Amplification by subsampling without replacement, for replaced records (arXiv 1808.00087, theorem 27), as
    ``dp_accounting`` has it. It counts only if nobody else knows who was sampled, and each sample is a fresh one. Where
    noise is small that bound is above the one without sampling, which then holds (arXiv 1206.2459, theorem 13).
    """
    if drawn >= size or not multiplier:
        return gaussian(multiplier, times * uses)
    once = _once(size, drawn, multiplier, uses)
    return lambda alpha: times * once(alpha)


@cache
def _once(size: int, drawn: int, multiplier: float, uses: int) -> Mechanism:
    """What takes a third of a second for all orders is computed once a process."""
    dp, whole = accounting(), gaussian(multiplier, uses)
    noise = dp.GaussianDpEvent(multiplier / 2 / math.sqrt(uses))
    event = dp.SampledWithoutReplacementDpEvent(size, drawn, noise)

    def divergence(alpha: float) -> float:
        accountant = dp.rdp.RdpAccountant([alpha], dp.NeighboringRelation.REPLACE_ONE)
        return min(float(accountant.compose(event).rdp[0]), whole(alpha))

    return cache(divergence)
