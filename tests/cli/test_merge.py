"""``hubless merge``: what a person types and what comes of it."""

import inspect

import pytest
import torch
from safetensors.torch import load_file, save_file

from hubless.cli import main
from hubless.cli.merge import METHODS
from hubless.merging import DareTies, TaskArithmetic, Ties, grams, merge
from hubless.parts import parts


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with base, A and B, and a function that merges in it."""
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate(("base", "A", "B")):
        save_file(model(place), f"{name}.safetensors")
    return tmp_path


def model(seed):
    module = torch.nn.Linear(4, 3)
    with torch.no_grad():
        for place, value in enumerate(module.parameters()):
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(10 * seed + place)))
    return {name: value.detach() for name, value in module.named_parameters()}


def run(text):
    return main(["merge", *text.split()])


def same(path, expected):
    found = load_file(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_line_of_the_readme(here, capsys):
    line = "A.safetensors B.safetensors --method ties --base base.safetensors --weights 0.6,0.4 --density 0.5 -o OUT"
    assert run(line) == 0
    same("OUT", merge(Ties(0.5), [model(1), model(2)], base=model(0), weights=[0.6, 0.4]))
    said = capsys.readouterr().out
    assert "merge 2/2" in said
    assert "OUT: ties of 2 models, 2 tensors, 60 B in" in said
    assert sorted(path.name for path in here.iterdir()) == ["A.safetensors", "B.safetensors", "OUT", "base.safetensors"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("--method ties:0.3:scale=0.5", Ties(0.3, 0.5)),
        ("--method dare-ties --density 0.3 --scale 0.7 --seed 4", DareTies(0.3, 0.7)),
        ("--method task-arithmetic --scale=-1", TaskArithmetic(-1)),
    ],
)
def test_values_of_a_method_come_as_options_or_in_its_text(here, text, rule):
    assert run(f"A.safetensors B.safetensors --base base.safetensors -o OUT --quiet {text}") == 0
    same("OUT", merge(rule, [model(1), model(2)], base=model(0), seed=4))


def test_one_model_is_taken_back_from_its_base(here):
    assert (
        run("A.safetensors --method task-arithmetic --weights=-1 --base base.safetensors -o OUT --dtype float64") == 0
    )
    found = load_file("OUT")["weight"]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), 2 * model(0)["weight"] - model(1)["weight"])


def test_statistics_come_once_a_model(here, capsys):
    for place, name in ((1, "A"), (2, "B")):
        layer = torch.nn.Linear(4, 3)
        layer.load_state_dict(model(place))
        inputs = torch.randn(9, 4, generator=torch.Generator().manual_seed(place))
        save_file(grams(layer, [inputs]), f"gram-{name}.safetensors")
    files = "--statistics gram-A.safetensors --statistics gram-B.safetensors"
    assert run(f"A.safetensors B.safetensors --method regmean {files} -o OUT") == 0
    assert "1 tensors without statistics are plain means" in capsys.readouterr().out
    torch.testing.assert_close(load_file("OUT")["bias"], (model(1)["bias"] + model(2)["bias"]) / 2)


WRONG = {
    "A.safetensors B.safetensors --method tie -o OUT": "method: unknown rule 'tie'; did you mean 'ties'?",
    "A.safetensors B.safetensors --method ties -o OUT": "base: Ties needs the model that all others",
    "A.safetensors B.safetensors --density 0.5 -o OUT": "method: 'mean:density=0.5': got an unexpected keyword",
    "A.safetensors B.safetensors --weights 1,2,3 -o OUT": "weights = 1, 2, 3: must be one a model, and there are 2",
    "A.safetensors B.safetensors --weights 1;2 -o OUT": "weights = '1;2' must be numbers with commas in between",
    "A.safetensors B.safetensors --weights 1,nan -o OUT": "weights = 1, nan: must be finite",
    "A.safetensors B.safetensors --weights=1,-1 -o OUT": "weights = 1, -1: Mean needs 0 or more",
    "A.safetensors B.safetensors --method ties --density 0 --base base.safetensors -o OUT": "must be greater than 0",
    "A.safetensors -o OUT": "models: 1 given; a merge needs two or more",
    "A.safetensors C.safetensors -o OUT": "C.safetensors is not there",
    "A.safetensors B.safetensors --method fisher -o OUT": "Fisher takes one set (fisher) a model, not 0",
    "A.safetensors B.safetensors A.safetensors --method slerp -o OUT": "Slerp merges 2, not 3",
    "A.safetensors B.safetensors -o A.safetensors": "out = 'A.safetensors' exists already; --force replaces it",
    "A.safetensors B.safetensors --dtype int8 -o OUT": "'int8' is not one of",
    "A.safetensors B.safetensors": "Missing option '--out'",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_is_one_line_and_writes_nothing(here, capsys, text):
    before = sorted(path.name for path in here.iterdir())
    assert run(text) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert WRONG[text] in said.err
    assert sorted(path.name for path in here.iterdir()) == before


def test_help_names_every_method():
    assert set(METHODS.split(", ")) == set(parts("rule"))
    for name, rule in parts("rule").items():
        known = inspect.signature(rule).parameters
        assert ("density" in known) == (name in ("ties", "dare", "dare-ties"))
