from pathlib import Path

import numpy as np
import pytest

from hubless import catalogue
from hubless.parts import make
from hubless.recipes.learning.robust import ATTACKS, DEFENCES

RECIPE = catalogue.find("robust").load()


def end(**options):
    return list(RECIPE.build(options, "tiny").records())[-1].metrics


@pytest.mark.parametrize("overlay", ["gossip", "star", "rotating"])
@pytest.mark.parametrize("merge", ["mean", *DEFENCES])
def test_every_defence_over_every_overlay(overlay, merge):
    metrics = end(overlay=overlay, merge=merge, attack="sign-flip:2", participants=0)
    assert np.isfinite(metrics["loss"])
    assert 0 <= metrics["accuracy"] <= 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_hurts_or_is_measured(attack):
    calm, attacked = end(), end(attack=attack)
    assert attacked != calm
    assert ("attack_success" in attacked) == (attack.split(":")[0] in ("label-flip", "backdoor"))


def test_the_default_grid_is_six_attacks_by_eight_defences():
    axes = RECIPE.sweep["axes"]
    assert axes == {"attack": ["none", *ATTACKS], "merge": ["mean", *DEFENCES]}
    assert (len(set(ATTACKS)), len(set(DEFENCES))) == (6, 8)
    for kind, names in axes.items():
        for name in names:
            make(kind, name)


def test_the_grid_draws_both_metrics_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    from hubless.cli import main

    monkeypatch.chdir(tmp_path)
    words = ["grid", "robust", "--attack", "none,label-flip:40%", "--merge", "mean,median", "--preset", "tiny",
             "--out", "sweep", "--jobs", "1"]  # fmt: skip
    for arguments in (words, ["grid", "--resume", "sweep", "--jobs", "1"]):
        assert main(arguments) == 0
        page = Path("sweep/report.html").read_text()
        assert "attack success" in page
        assert len(list(Path("sweep/figures").glob("*.png"))) == 2
        assert len(list(Path("sweep/cells").iterdir())) == 4
