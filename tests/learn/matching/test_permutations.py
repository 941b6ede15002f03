import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from hubless.errors import ConfigError
from hubless.learn import Model, keys
from hubless.learn.matching.permutations import Block, Piece, Spec, row_of, tensors_of
from hubless.learn.matching.symmetries import derive
from hubless.learn.matching.units import Units, fixed
from hubless.parts import make

IMAGES = (1, 8, 8)


class Odd(nn.Module):
    """A depthwise convolution, two branches side by side, a scale by channel, and functions in place of layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.each = nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.left, self.right = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 5, 1, bias=False)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.norm = nn.GroupNorm(1, 8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.mixer = nn.Parameter(torch.rand(6, 7))
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        h = self.each(torch.relu(self.first(x)))
        h = torch.cat([self.left(h), self.right(h)], dim=1) * self.scale + h.mean(1, keepdim=True)
        h = self.up(F.max_pool2d(self.norm(h), 2))
        h = h.flatten(2).transpose(1, 2).mean(1) @ self.mixer
        return F.log_softmax(self.head(F.gelu(h)), dim=1)


class Words(nn.Module):
    """A table of vectors, a residual layer that is used twice, and LayerNorm."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.place = nn.Parameter(torch.rand(5, 6))
        self.norm = nn.LayerNorm(6)
        self.wide, self.narrow = nn.Linear(6, 9), nn.Linear(9, 6, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        h = self.table(x) + self.place
        for _ in range(2):
            h = h + self.narrow(torch.tanh(self.wide(self.norm(h))))
        return self.head(h.mean(dim=1))


def _zoo(text, shape=IMAGES):
    return lambda: make("model", text)(shape, 3)


CASES = {
    "mlp": (_zoo("mlp:7:5", (6,)), (6,), {"1": 7, "3": 5}),
    "cnn": (_zoo("lenet", (1, 20, 20)), (1, 20, 20), {"0": 6, "3": 16, "7": 120, "9": 84}),
    "cnn-bn": (_zoo("cnn-bn"), IMAGES, {"0": 8}),
    "resnet": (_zoo("resnet:14:2"), IMAGES, None),
    "odd": (Odd, IMAGES, {"first": 4, "left": 3, "right": 5, "up": 6, "mixer": 7}),
    "words": (Words, (5,), {"norm": 6, "wide": 9}),
    "softmax": (_zoo("softmax", (6,)), (6,), {}),
}


def inputs(shape, count=3):
    if shape == (5,):
        return torch.arange(count * 5).reshape(count, 5) * 7 % 11
    return keys.uniform(keys.fold(1, "x"), (count, *shape))


@pytest.fixture(scope="module")
def known():
    """Networks with their permutations and inputs."""
    found = {}
    for name, (build, shape, sizes) in CASES.items():
        model = Model(build, name=name)
        found[name] = model, derive(model, inputs(shape)), inputs(shape), sizes
    return found


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_permutations_leave_the_function_as_it_is(known, name, seed):
    model, spec, x, _ = known[name]
    w, s = model.start(seed), model.state()
    s = {n: 0.5 + keys.uniform(keys.fold(seed, n), tuple(v.shape)) if v.dim() else v for n, v in s.items()}
    by = {n: keys.permutation(keys.fold(seed, n), units) for n, units in spec.sizes.items()}
    row, state = row_of(model, spec.permuted(tensors_of(model, w, s), by), s)
    assert torch.allclose(model.forward(row, x, state), model.forward(w, x, s), atol=1e-4)
    moving = any(not torch.equal(order, torch.arange(len(order))) for order in by.values())
    assert torch.equal(row, w) != moving
    assert torch.equal(row.sort().values, w.sort().values)


@pytest.mark.parametrize("name", CASES)
def test_what_may_move_is_found(known, name):
    model, spec, _, sizes = known[name]
    assert sizes is None or spec.sizes == sizes
    assert set(spec.axes) == {*model.names, *(n.removeprefix("buffer/") for n in model.buffers)}
    assert Spec.of(spec.table, model).axes == spec.axes
    assert Spec.of(json.loads(json.dumps(spec.table)), model).table == spec.table


def test_inputs_and_outputs_stay_and_the_rest_of_a_perceptron_follows(known):
    assert known["mlp"][1].table == {
        "1.weight": ["1", None], "1.bias": ["1"],
        "3.weight": ["3", "1"], "3.bias": ["3"],
        "5.weight": [None, "3"], "5.bias": [None],
    }  # fmt: skip


def test_a_flattened_image_repeats_its_channels(known):
    spec = known["cnn"][1]
    assert spec.table["7.weight"] == ["7", "3*9"]
    assert list(spec.blocks("3")) == [
        Block("3.weight", 0, 0, Piece("3", 16)),
        Block("3.bias", 0, 0, Piece("3", 16)),
        Block("7.weight", 1, 0, Piece("3", 16, 9)),
    ]
    weight = torch.arange(120 * 144.0).reshape(120, 144)
    assert torch.equal(spec.moved("7.weight", weight, {"3": torch.arange(16).flip(0)})[:, :9], weight[:, 135:])


def test_normalisation_follows_with_its_statistics(known):
    table = known["cnn-bn"][1].table
    names = ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    assert [table[name] for name in names] == [["0"]] * 5
    assert table["1.num_batches_tracked"] == []


def test_residual_streams_share_one_permutation(known):
    spec = known["resnet"][1]
    blocks = [str(at) for at in range(3, 9)]
    streams = {at: spec.table[f"{at}.conv2.weight"][0] for at in blocks}
    assert streams["3"] == streams["4"] == spec.table["0.weight"][0]
    assert streams["5"] == streams["6"] == spec.table["5.shortcut.0.weight"][0] != streams["4"]
    assert spec.table["5.shortcut.0.weight"][1] == streams["4"]
    assert len(spec.sizes) == 3 + len(blocks)
    assert all(spec.table[f"{at}.conv1.weight"][0] == f"{at}.conv1" for at in blocks)


def test_branches_side_by_side_stay_two_permutations(known):
    table = known["odd"][1].table
    assert table["each.weight"] == ["first*2", None, None, None]
    assert table["left.weight"] == ["left", "first*2", None, None]
    assert table["scale"] == ["left+right", None, None]
    assert table["up.weight"] == ["left+right", "up", None, None]


def test_frozen_parameters_hold_what_they_touch():
    model = Model(_zoo("mlp:7:5", (6,)), frozen=["3."])
    assert derive(model, inputs((6,))).sizes == {}
    assert derive(Model(_zoo("mlp:7:5", (6,)), frozen=["1."]), inputs((6,))).sizes == {"3": 5}


class Calls(nn.Module):
    """A linear layer, something, and a linear layer."""

    def __init__(self, what, width=8):
        super().__init__()
        self.first, self.last, self.what = nn.Linear(6, 8), nn.Linear(width, 3), what

    def forward(self, x):
        return self.last(self.what(self.first(x)))


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Heads(nn.Module):
    def forward(self, x):
        return x.view(x.shape[0], 2, 4).transpose(1, 2).flatten(1)


class Half(nn.Module):
    def forward(self, x):
        return x[:, :4]


@pytest.mark.parametrize(
    ("build", "shape", "words"),
    [
        (lambda: Calls(Branches()), (6,), "Calls cannot be traced .*give a spec by hand"),
        (lambda: Calls(Heads()), (6,), "through 'view', which takes an axis apart whose units may move"),
        (lambda: Calls(Half(), 4), (6,), "through 'getitem', which is not known"),
        (lambda: Calls(nn.Softmin(1)), (6,), "through Softmin at 'what', which is not known; give a spec by hand$"),
        (lambda: Calls(nn.GroupNorm(2, 8)), (6,), "GroupNorm at 'what', which has 2 groups"),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3)),
         IMAGES, "Conv2d at '1', which has 2 groups"),
        (_zoo("byte-transformer", (5,)), (5,), "byte-transformer cannot be traced"),
    ],
)  # fmt: skip
def test_what_cannot_be_derived_is_told(build, shape, words):
    with pytest.raises(ConfigError, match=words):
        derive(Model(build, name="byte-transformer" if shape == (5,) else ""), inputs(shape))


def test_what_is_not_known_may_see_what_stays():
    model = Model(lambda: nn.Sequential(nn.Softmin(1), nn.Linear(6, 8), nn.PReLU(8), nn.Linear(8, 3)))
    assert derive(model, inputs((6,))).sizes == {"1": 8}


HAND = {"1.weight": ["a", None], "1.bias": ["a"], "3.weight": [None, "a"], "3.bias": [None]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"3.weight": None}, r"3.weight \(3, 7\) is missing"),
        ({"4.weight": ["a", None]}, "has no tensor '4.weight'"),
        ({"1.bias": ["a", None]}, r"1.bias has 1 axes \(7,\), not 2"),
        ({"1.bias": ["a*2"]}, "1.bias, axis 0: its parts make 14 entries, but the axis has 7"),
        ({"1.bias": ["b"], "3.weight": [None, "b+a"]}, "its parts make 14 entries, but the axis has 7"),
        ({"1.bias": ["a*x"]}, r"must be None, NAME, NAME\*TIMES"),
        ({"1.weight": [None, "b+c"]}, "nothing says how many units 'b' has; name them on an axis of their own"),
        ({"3.weight": [None, None]}, "computes something else when the 7 units of 'a' change places"),
        ({"1.bias": [None]}, "computes something else when the 7 units of 'a' change places"),
        ({"3.weight": ["b", "a"], "3.bias": ["b"]}, "the 3 units of 'b' change places"),
    ],
)
def test_a_table_by_hand_is_checked(change, words):
    model = Model(_zoo("mlp:7", (6,)))
    Spec.of(HAND, model).check(model, inputs((6,)))
    table = {name: axes for name, axes in {**HAND, **change}.items() if axes is not None}
    with pytest.raises(ConfigError, match=words):
        Spec.of(table, model).check(model, inputs((6,)))


def test_a_table_may_join_pieces_and_leave_entries_in_place():
    model = Model(lambda: nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 3)))
    spec = Spec.of(
        {"0.weight": ["_*2+a", None], "0.bias": ["_*2+a"], "1.weight": [None, "_*2+a"], "1.bias": [None]}, model
    )
    assert spec.sizes == {"a": 5}
    assert spec.table["1.weight"] == [None, "_*2+a"]
    spec.check(model, inputs((6,)))
    bias = spec.moved("0.bias", torch.arange(7), {"a": torch.arange(5).flip(0)})
    assert bias.tolist() == [0, 1, 6, 5, 4, 3, 2]


def test_a_table_is_read_from_a_file(tmp_path):
    model = Model(_zoo("mlp:7", (6,)))
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(HAND))
    assert Spec.read(path, model).table == HAND
    for text, words in (
        ("{", "cannot be read as JSON"),
        ("[1]", "must be a table"),
        ('{"1.bias": 3}', "must be a table"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            Spec.read(path, model)
    with pytest.raises(ConfigError, match="cannot be read"):
        Spec.read(tmp_path / "none.json", model)


def test_axes_that_are_cut_differently_move_only_within_the_cuts():
    units = Units()
    a, b, c = units.fresh(3), units.fresh(5), units.fresh(8)
    units.unify((*a, *b), c)
    assert units.resolve(c) == (*units.resolve(a), *units.resolve(b))
    d, e = units.fresh(4), units.fresh(4)
    units.unify((*d, *e), (*a, *b))
    assert [term.units for term in units.resolve(c)] == [3, 1, 4]
    units.unify(units.fresh(8), (*fixed(2), *fixed(6)))
    units.unify(c, (*fixed(6), *units.fresh(2)))
    assert units.resolve(c) == fixed(8)
