"""Options that every recipe accepts: they belong to the house, not to a method."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from hubless.options import Count, Mask, Positive, Whole


class Setting(BaseModel):
    """Seed, faults, links, masks and resources of a run; help texts are in ``options.STANDARD``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: Whole = 0
    faults: str = ""
    links: str = "50:20"
    trainable: Mask = ""
    personal: Mask = ""
    device: Literal["cpu", "cuda"] = "cpu"
    memory: Positive = 512
    threads: Whole = 0
    evaluate: Count = 1
    nonfinite: Literal["stop", "drop"] = "stop"
    backend: Literal["in-process", "processes", "ray"] = "in-process"
    workers: Whole = 0
