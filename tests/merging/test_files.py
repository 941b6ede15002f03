"""Checkpoints on disk: what is read, what is written, and what is refused before anything is."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hubless.errors import ConfigError, DataError
from hubless.merging import Dare, DareTies, Fisher, Mean, RegMean, Slerp, TaskArithmetic, Ties, merge
from hubless.merging.checkpoint import open_checkpoint
from hubless.merging.files import prepare
from hubless.merging.tensor_file import TYPES, Form, TensorFile, ordered, write_tensors

ABOUT = {"format": "pt"}
SHAPES = {"layers.0.weight": (6, 4), "layers.0.bias": (6,), "norm": (), "head.weight": (3, 6)}


def model(seed, kind=torch.float32, **extra):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(kind) for name, shape in SHAPES.items()} | extra


@pytest.fixture
def three(tmp_path):
    """A base and two models of it, in files."""
    for name, seed in (("base", 0), ("A", 1), ("B", 2)):
        save_file(model(seed), tmp_path / f"{name}.safetensors", metadata=ABOUT)
    return [tmp_path / f"{name}.safetensors" for name in ("base", "A", "B")]


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("rule", [Ties(0.5), Dare(0.5), Mean()], ids=str)
def test_files_are_merged_as_tensors_in_memory_are(three, tmp_path, rule):
    base, one, other = three
    given = {"weights": [0.6, 0.4], "seed": 3}
    prepare(rule, [one, other], base=base if rule.needs_base else None, **given).write(tmp_path / "out.safetensors")
    expected = merge(rule, [load_file(one), load_file(other)], base=load_file(base), **given)
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_bytes_are_those_that_safetensors_itself_writes(tmp_path):
    values = {
        f"{name} ä": torch.arange(6).reshape(2, 3).to(kind) for name, kind in TYPES.items()
    } | {"none": torch.zeros(0, 3), "one": torch.tensor(1.5), "b": torch.ones(3), "a": torch.ones(2)}  # fmt: skip
    save_file(values, tmp_path / "theirs", metadata=ABOUT)
    forms = {name: Form(value.dtype, tuple(value.shape)) for name, value in values.items()}
    write_tensors(tmp_path / "ours", forms, ((name, values[name]) for name in ordered(forms)), ABOUT)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    back = TensorFile(tmp_path / "theirs")
    assert back.about == ABOUT
    for name, value in values.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name].reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8))


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 400), flip=st.integers(0, 399), byte=st.integers(0, 255))
def test_a_damaged_file_is_an_error_or_has_other_values(tmp_path_factory, cut, flip, byte):
    path = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    save_file({"a": torch.ones(5, 7), "b": torch.ones(3, dtype=torch.int64)}, path)
    data = bytearray(path.read_bytes())
    data[flip % len(data)] = byte
    path.write_bytes(data[:cut])
    try:
        file = TensorFile(path)
        assert all(tuple(file[name].shape) == file.forms[name].shape for name in file)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.float64])
def test_the_types_of_the_output_are_the_first_models_or_as_asked(tmp_path, dtype):
    counts = {"counter": torch.tensor(7), "table": torch.arange(4)}
    save_file(model(1, torch.bfloat16, **counts), tmp_path / "A.safetensors")
    save_file(model(2, **counts | {"counter": torch.tensor(9)}), tmp_path / "B.safetensors")
    prepare(Mean(), [tmp_path / "A.safetensors", tmp_path / "B.safetensors"], dtype=dtype).write(tmp_path / "out")
    found = load_file(tmp_path / "out")
    assert {found[name].dtype for name in SHAPES} == {dtype or torch.bfloat16}
    assert found["counter"].dtype == torch.int64
    assert (found["counter"], found["table"].tolist()) == (7, [0, 1, 2, 3])
    exact = (model(1, torch.bfloat16)["norm"].float() + model(2)["norm"]) / 2
    assert found["norm"] == exact.to(dtype or torch.bfloat16)


def sharded(folder, seed, **extra):
    folder.mkdir()
    one, other = "model-1.safetensors", "model-2.safetensors"
    parts = {one: ["layers.0.weight", "norm"], other: ["layers.0.bias", "head.weight"]}
    tensors = model(seed)
    for home, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / home, metadata=ABOUT)
    where = {name: home for home, names in parts.items() for name in names}
    index = {"metadata": {"total_size": 1}, "weight_map": where, **extra}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"hidden": 6}')
    (folder / "notes.md").write_text("not a part of the model")
    return folder


def test_a_sharded_folder_is_written_as_it_was_found(three, tmp_path):
    folder = sharded(tmp_path / "S", 1)
    out, told = tmp_path / "out", {}
    prepare(Mean(), [folder, three[2]]).write(out, told=told.__setitem__)
    index = "model.safetensors.index.json"
    assert everything(out) == ["config.json", "model-1.safetensors", "model-2.safetensors", index]
    written, before = (json.loads((place / index).read_text()) for place in (out, folder))
    assert written["weight_map"] == before["weight_map"]
    assert written["metadata"]["total_size"] == 4 * sum(value.numel() for value in model(0).values())
    expected = merge(Mean(), [model(1), model(2)])
    found = open_checkpoint(out)
    assert all(torch.equal(found[name], expected[name]) for name in SHAPES)
    assert told == {name: 4 * value.numel() for name, value in model(0).items()}


def test_an_index_that_lies_is_refused(tmp_path):
    folder = sharded(tmp_path / "S", 1)
    index = folder / "model.safetensors.index.json"
    for where, what in (
        ({"norm": "../model-1.safetensors"}, "must give a file of the folder"),
        ({"norm": "model-1.safetensors"}, "does not fit the files, first at"),
        ({"norm": "model-3.safetensors"}, "model-3.safetensors cannot be read: No such file"),
        ("norm", "must give a file of the folder"),
    ):
        index.write_text(json.dumps({"weight_map": where}))
        with pytest.raises(DataError, match=what):
            open_checkpoint(folder)
    index.write_text("[")
    with pytest.raises(DataError, match=r"index\.json cannot be read"):
        open_checkpoint(folder)


def adapter(folder, seed, **config):
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    shapes = {"lora_A.weight": (2, 5), "lora_B.weight": (4, 2)}
    pair = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(pair, folder / "adapter_model.safetensors", metadata=ABOUT)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "target_modules": ["q", "v"], **config}))
    return folder


def test_adapters_are_merged_with_their_configuration(tmp_path):
    one = adapter(tmp_path / "A", 1, inference_mode=True)
    other = adapter(tmp_path / "B", 2, target_modules=["v", "q"])
    prepare(Ties(0.5), [one, other]).write(tmp_path / "out")
    assert everything(tmp_path / "out") == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"] == ["q", "v"]
    tensors = [load_file(folder / "adapter_model.safetensors") for folder in (one, other)]
    zero = {name: torch.zeros_like(value) for name, value in tensors[0].items()}
    expected = merge(Ties(0.5), tensors, base=zero)
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_adapters_that_do_not_go_together_are_refused(three, tmp_path):
    one, other = adapter(tmp_path / "A", 1), adapter(tmp_path / "B", 2, r=4)
    with pytest.raises(ConfigError, match=r"B: adapter_config.json has r = 4, that of .*A has 2; adapters must agree"):
        prepare(Mean(), [one, other])
    with pytest.raises(ConfigError, match=r"A is an adapter and .*base.safetensors is not"):
        prepare(Mean(), [three[0], one])


def test_names_and_shapes_that_differ_are_all_counted_and_the_first_are_named(three, tmp_path):
    odd = model(2)
    del odd["norm"]
    odd |= {f"extra.{place}": torch.ones(1) for place in range(5)} | {"head.weight": torch.ones(6, 3)}
    save_file(odd, three[2])
    with pytest.raises(ConfigError) as error:
        prepare(Mean(), three[1:])
    said = str(error.value)
    assert "B.safetensors differs from" in said
    assert "1 missing (norm)" in said
    assert "5 unexpected (extra.0, extra.1, extra.2 and 2 more)" in said
    assert "1 of another shape (head.weight [6, 3], not [3, 6])" in said
    assert "hubless show model-merging" in said
    with pytest.raises(ConfigError, match=r"base .*B.safetensors differs from .*A.safetensors"):
        prepare(Ties(), [three[1], three[0]], base=three[2])


@pytest.mark.parametrize(("where", "label"), [(0, "base: norm"), (2, r"B.safetensors: norm")])
def test_values_that_are_not_finite_leave_nothing_behind(three, tmp_path, where, label):
    save_file(model(5) | {"norm": torch.tensor(torch.nan)}, three[where])
    before = everything(tmp_path)
    with pytest.raises(DataError, match=rf"{label} has 1 values that are not finite, of 1"):
        prepare(Ties(), three[1:], base=three[0]).write(tmp_path / "out.safetensors")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("where", ["weight", "statistics", "base"])
def test_no_rule_hides_a_value_that_is_not_finite(bad, where):
    for rule in (Mean(), Slerp(), TaskArithmetic(), Ties(0.1), Dare(0.1), DareTies(0.1), Fisher(), RegMean()):
        base, one, other = ({"weight": model(seed)["head.weight"]} for seed in range(3))
        known = None
        if rule.statistics:
            known = [{"weight": torch.eye(6) if rule.statistics == "gram" else torch.ones(3, 6)} for _ in range(2)]
        if (where == "statistics" and not known) or (where == "base" and not rule.needs_base):
            continue
        broken = {"weight": one["weight"], "base": base["weight"], "statistics": (known or [base])[0]["weight"]}[where]
        broken[2, 3] = bad
        with pytest.raises(DataError, match=r"weight has 1 values that are not finite"):
            merge(rule, [one, other], base=base, weights=[0.3, 0.7], statistics=known)


def test_a_merge_that_overflows_the_type_leaves_nothing_behind(three, tmp_path):
    save_file({name: value * 1e6 for name, value in model(1).items()}, three[1])
    before = everything(tmp_path)
    with pytest.raises(DataError, match=r"merged in float16, head.weight has \d+ values that are not finite, of 18"):
        prepare(Mean(), three[1:], dtype=torch.float16).write(tmp_path / "out" / "x")
    assert everything(tmp_path) == sorted([*before, "out"])


def test_a_merge_that_is_stopped_leaves_what_was_there(three, tmp_path):
    def stop(name, size):
        raise KeyboardInterrupt

    (tmp_path / "out").write_text("old")
    before = everything(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        prepare(Mean(), three[1:]).write(tmp_path / "out", force=True, told=stop)
    assert everything(tmp_path) == before
    assert (tmp_path / "out").read_text() == "old"
    with pytest.raises(KeyboardInterrupt):
        prepare(Mean(), [sharded(tmp_path / "S", 1), three[1]]).write(tmp_path / "new", told=stop)
    assert not (tmp_path / "new").exists()
    assert not [name for name in everything(tmp_path) if name.startswith(".")]


def test_only_force_replaces_and_only_models(three, tmp_path):
    out, job = tmp_path / "out", prepare(Mean(), three[1:])
    out.write_text("old")
    with pytest.raises(ConfigError, match=r"out = .* exists already; --force replaces it"):
        job.write(out)
    job.write(out, force=True)
    assert load_file(out).keys() == SHAPES.keys()
    job.write(three[1], force=True)  # the output may be one of the inputs
    assert torch.equal(load_file(three[1])["norm"], load_file(out)["norm"])
    folders = prepare(Mean(), [sharded(tmp_path / "S", 1), three[2]])
    with pytest.raises(ConfigError, match="is a file, and what is written is not"):
        folders.write(out, force=True)
    with pytest.raises(ConfigError, match="is a folder, and what is written is not"):
        job.write(tmp_path / "S", force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    with pytest.raises(ConfigError, match="replaced only when it is a model"):
        folders.write(tmp_path / "mine", force=True)
    with pytest.raises(ConfigError, match="holds folders, which are not replaced"):
        folders.write(tmp_path, force=True)
    folders.write(tmp_path / "S", force=True)
    assert not (tmp_path / "S" / "notes.md").exists()
    assert not [name for name in everything(tmp_path) if name.startswith(".")]


def test_statistics_of_each_model_go_with_it(three, tmp_path):
    known = [{name: torch.rand(shape, generator=torch.Generator().manual_seed(place)) for name, shape in SHAPES.items()
              if name != "norm"} for place in range(2)]  # fmt: skip
    files = [tmp_path / f"fisher{place}.safetensors" for place in range(2)]
    for one, path in zip(known, files, strict=True):
        save_file(one, path)
    job = prepare(Fisher(), three[1:], statistics=files)
    job.write(tmp_path / "out")
    expected = merge(Fisher(), [model(1), model(2)], statistics=known)
    found = load_file(tmp_path / "out")
    assert all(torch.equal(found[name], expected[name]) for name in SHAPES)
    assert job.averaged == 1
    torch.testing.assert_close(found["norm"], (model(1)["norm"] + model(2)["norm"]) / 2)


def test_statistics_that_do_not_fit_are_named(three, tmp_path):
    file = tmp_path / "known.safetensors"
    for rule, known, what in (
        (Fisher(), {"heads.weight": torch.ones(3, 6)}, r"1 unexpected \(heads.weight\)"),
        (Fisher(), {"head.weight": torch.ones(6, 3)}, r"1 of another shape \(head.weight \[6, 3\], not \[3, 6\]\)"),
        (RegMean(), {"head.weight": torch.ones(3, 3)}, r"head.weight \[3, 3\], not \[6, 6\]"),
        (RegMean(), {"layers.0.bias": torch.ones(6, 6)}, r"1 unexpected \(layers.0.bias\)"),
        (Mean(), {"norm": torch.tensor(1.0)}, "Mean takes none, not 2"),
        (Fisher(), {}, "holds no tensor"),
    ):
        save_file(known, file)
        with pytest.raises(ConfigError, match=what):
            prepare(rule, three[1:], statistics=[file, file])
    with pytest.raises(ConfigError, match=r"Fisher takes one set \(fisher\) a model, not 1"):
        prepare(Fisher(), three[1:], statistics=[file])
    save_file({"norm": torch.tensor(1.0)}, file)
    save_file({"norm": torch.tensor(1.0), "layers.0.bias": torch.ones(6)}, tmp_path / "more.safetensors")
    with pytest.raises(ConfigError, match=r"more.safetensors differs .*1 unexpected \(layers.0.bias\)"):
        prepare(Fisher(), three[1:], statistics=[file, tmp_path / "more.safetensors"])


def test_what_is_no_model_is_said(three, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("hello there")
    for name, what in (
        ("nowhere", "is not there"),
        ("empty", "holds no model: none of model.safetensors"),
        ("pickled", "may run code when it is read"),
        ("text.safetensors", "is no safetensors file, or a damaged one"),
    ):
        with pytest.raises(DataError, match=what):
            prepare(Mean(), [three[1], tmp_path / name])
    with pytest.raises(ConfigError, match="models: 1 given; a merge needs two or more"):
        prepare(Mean(), three[:1])
    with pytest.raises(ConfigError, match="Mean has no use for one; leave it away"):
        prepare(Mean(), three[1:], base=three[0])
    with pytest.raises(ConfigError, match="base: Dare needs the model that all others were fine-tuned from"):
        prepare(Dare(), three[1:])


def test_the_folder_of_a_run_stands_for_its_model(three, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "records.jsonl").write_text("")
    save_file(model(1), run / "model.safetensors")
    assert open_checkpoint(run).path == run / "model.safetensors"
    prepare(Mean(), [run, three[2]]).write(tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").is_file()


def test_integers_that_differ_have_no_mean(three, tmp_path):
    for path, start in zip(three[1:], (0, 1), strict=True):
        save_file(model(1) | {"table": torch.arange(start, start + 4)}, path)
    with pytest.raises(ConfigError, match=r"table: holds integers that differ between .*A.* and .*B"):
        prepare(Mean(), three[1:]).write(tmp_path / "out")


def test_one_model_twice_counts_twice(three, tmp_path):
    prepare(Mean(), [three[1], three[1], three[2]]).write(tmp_path / "out")
    torch.testing.assert_close(load_file(tmp_path / "out")["norm"], (2 * model(1)["norm"] + model(2)["norm"]) / 3)
