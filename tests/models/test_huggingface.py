"""Hugging Face models as peers: one base, adapters of their own, megabytes a peer."""

import pytest
import torch
from torch import nn

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn import SGD, Adam, Alone, Gossip, Learning, Model, Star, Workload
from hubless.learn.model import language_loss
from hubless.parts import make
from hubless.run.setting import Setting

transformers = pytest.importorskip("transformers", reason="the extra llm is not installed")
peft = pytest.importorskip("peft", reason="the extra llm is not installed")

from hubless.models.huggingface import adapted, base  # noqa: E402

LENGTH = 8


@pytest.fixture(scope="module")
def text():
    """Two tokens that take turns: easy to learn, whatever the base knows."""
    tokens = (5 + 2 * ((torch.arange(LENGTH + 1) + torch.arange(40)[:, None]) % 2)).numpy()
    x, y = tokens[:, :-1], tokens[:, 1:]
    return Dataset("turns", x[:32], y[:32], x[32:], y[32:], (), "language")


def lora(**more):
    return peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **more)


def learn(model, data, *, overlay=None, local=None, setting=None, rounds=2, **more):
    work = Workload(data, "iid", 4, model)
    local = local or Adam(lr=0.01, steps=2, batch=4)
    given = dict(workload=work, local=local, overlay=overlay or Gossip(make("topology", "full")), rounds=rounds)
    return Learning(**given, **more).under(Setting(seed=1, threads=1, **(setting or {})))


def test_a_peer_is_its_adapters_and_the_base_is_stored_once(llama):
    model = Model(adapted(llama, lora()), task="language")
    assert model.size == sum(p.numel() for n, p in model.module.named_parameters() if "lora" in n)
    assert model.size < sum(p.numel() for p in llama.parameters()) / 5
    first, second = model.copy(), model.copy()
    owned = {id(p) for p in llama.parameters()}
    for module in (first, second, model.module):
        shared = [p for n, p in module.named_parameters() if "lora" not in n]
        assert shared
        assert {id(p) for p in shared} <= owned
    assert not model.buffers


def test_a_fresh_adapter_changes_nothing_and_gives_the_models_own_logits(llama):
    model = Model(adapted(llama, lora()), task="language")
    x = torch.arange(3, 3 + 2 * LENGTH).reshape(2, LENGTH)
    with torch.no_grad():
        torch.testing.assert_close(model.forward(model.start(5), x), llama(input_ids=x).logits)


def test_peers_learn_and_exchange_adapters_only(llama, text):
    run = learn(Model(adapted(llama, lora()), task="language"), text, rounds=4,
                local=Adam(lr=0.1, steps=2, batch=4, keep=True))  # fmt: skip
    before = [p.clone() for p in llama.parameters()]
    records = [r for r in run.records() if r.kind in ("round", "end")]
    losses = [r.metrics["train_loss"] for r in records if "train_loss" in r.metrics]
    assert losses[-1] < losses[0] - 0.1
    size = run.models[0][0].size
    row = 4 * 4 * 3 * 4 * size  # rounds x peers x neighbours x bytes
    assert row <= records[-1].metrics["bytes"] < 1.1 * row + 4 * 4 * 3 * 200
    for p, kept in zip(llama.parameters(), before, strict=True):
        assert torch.equal(p, kept)


def test_one_step_is_what_peft_and_torch_do(llama, text):
    run = learn(Model(adapted(llama, lora()), task="language"), text, overlay=Alone(), rounds=1,
                local=SGD(lr=0.5, epochs=1, batch=0))  # fmt: skip
    list(run.records())
    model = run.models[0][0]
    w = run.snapshot().tensors["cohort.0/rows"][2]
    start = model.unflatten(model.start(_key(run)))
    own = model.copy()
    for name, p in own.named_parameters():
        if name in start:
            p.data = start[name].clone()
    x, y = run.shards.own(2)
    loss = language_loss(own(x), y).mean()
    loss.backward()
    for name, p in own.named_parameters():
        if name in start:
            torch.testing.assert_close(model.unflatten(w)[name], p.detach() - 0.5 * p.grad, atol=1e-6, rtol=1e-4)


def _key(run):
    from hubless.learn.population import _start_key

    return _start_key(run.setting.seed, 0)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (dict(peft_type="IA3", target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]), "ia3"),
        (dict(peft_type="PROMPT_TUNING", num_virtual_tokens=3), "prompt"),
    ],
)  # fmt: skip
def test_other_adapters_of_peft(llama, text, config, word):
    made = peft.get_peft_config({**config, "task_type": "CAUSAL_LM"})
    run = learn(Model(adapted(llama, made), task="language"), text)
    assert all(word in name for name in run.models[0][0].names)
    assert list(run.records())[-1].metrics["loss"] > 0


@pytest.mark.parametrize(
    "more",
    [
        dict(codec="delta+top-k:0.1+float16+deflate"),
        dict(merge="median"),
        dict(overlay=Star(weigh="one"), privacy="central:1:0.1"),
        dict(setting={"personal": "names:*layers.1*"}),
        dict(local=SGD(lr=0.1, steps=2, batch=4), privacy="dp-sgd:1:0.5"),
        dict(attack="sign-flip:25%", merge="trimmed-mean:0.25"),
    ],
    ids=str,
)
def test_adapters_go_through_every_slot(llama, text, more):
    run = learn(Model(adapted(llama, lora()), task="language"), text, **more)
    end = list(run.records())[-1]
    assert end.kind == "end"
    assert 0 < end.metrics["loss"] < 20


def test_the_whole_model_may_be_trained(llama, text):
    model = Model(adapted(llama), task="language")
    assert model.size == sum(p.numel() for p in llama.parameters())
    run = learn(model, text, setting={"trainable": "norm"}, rounds=1)
    assert run.models[0][0].size == 16 * 5
    list(run.records())


def test_a_classifier_ignores_padding_and_trains_its_head(llama):
    config = transformers.LlamaConfig(**{**llama.config.to_dict(), "num_labels": 3})
    network = transformers.LlamaForSequenceClassification(config)
    made = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")
    model = Model(adapted(network, made))
    assert any("score" in name for name in model.names)
    x = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 9, 8]])
    w = model.start(0)
    out = model.forward(w, x)
    assert out.shape == (2, 3)
    torch.testing.assert_close(out[0], model.forward(w, torch.tensor([[5, 6, 7, 0, 0, 0]]))[0])
    head = Model(adapted(network, made), trainable=make("mask", "head"))
    assert head.size < model.size


def test_by_name_from_a_folder(llama_folder):
    data = make("data", f"tokens:{llama_folder}:16:csv")
    assert data.x.shape[1] == 16
    assert data.x.max() < 270
    model = Workload(data, "iid", 2, f"hf:{llama_folder}:2").network()
    assert model.task == "language"
    assert all("lora" in name for name in model.names)
    run = learn(f"hf:{llama_folder}:2", data, rounds=1)
    assert list(run.records())[-1].metrics["loss"] > 0


def test_tokens_are_the_text_again(llama_folder):
    from tokenizers import Tokenizer

    data = make("data", f"tokens:{llama_folder}:16:csv")
    decode = Tokenizer.from_file(str(llama_folder / "tokenizer.json")).decode
    assert decode([*data.x[0], data.y[0][-1]])[:10] in _source("csv")
    assert (data.x[0][1:] == data.y[0][:-1]).all()
    assert data.y[0][-1] == data.x[1][0]


def _source(module):
    from hubless.data.text import files

    return "".join(path.read_text(encoding="utf-8") for path in files(module))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("hf:nowhere", "'nowhere' is neither a folder with a config.json nor a model in the cache"),
        ("hf:nowhere:0", "rank = '0' must be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_there(spec, said, tmp_path, monkeypatch, text):
    monkeypatch.setenv("HUBLESS_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=said):
        Workload(text, "iid", 2, spec).network()


def test_a_folder_without_weights_or_tokenizer_says_so(tmp_path, text):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match="holds no model that transformers can load"):
        Workload(text, "iid", 2, f"hf:{tmp_path}").network()
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        make("data", f"tokens:{tmp_path}")


def test_a_vocabulary_that_is_too_small(llama_folder, text):
    wide = Dataset("wide", text.x + 393, text.y, text.test_x, text.test_y, (), "language")
    with pytest.raises(ConfigError, match="has 300 outputs, the data needs 401"):
        Workload(wide, "iid", 2, f"hf:{llama_folder}").network()


def test_a_base_is_loaded_once(llama_folder):
    assert base(str(llama_folder)) is base(str(llama_folder))
    assert isinstance(base(str(llama_folder)), nn.Module)
