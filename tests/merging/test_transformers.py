"""What transformers and peft write can be merged, and they load what comes of it."""

import pytest
import torch

from hubless.cli import main
from hubless.merging.checkpoint import open_checkpoint

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers of itself


def llama(seed):
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True,
    )  # fmt: skip
    network = transformers.LlamaForCausalLM(config)
    return drawn(network, seed)


def drawn(network, seed):
    """The network with trainable parameters drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            if value.requires_grad:
                value.copy_(torch.randn(value.shape, generator=generator))
    return network


def test_a_model_in_several_files(tmp_path):
    networks = [llama(seed) for seed in (1, 2)]
    for name, network in zip("AB", networks, strict=True):
        network.save_pretrained(tmp_path / name, max_shard_size="8KB")
    assert open_checkpoint(tmp_path / "A").kind == "shards"
    assert main(["merge", f"{tmp_path}/A", f"{tmp_path}/B", "-o", f"{tmp_path}/out", "--quiet"]) == 0
    merged = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    one, other = (network.state_dict() for network in networks)
    assert merged.keys() == one.keys()
    for name, value in merged.items():
        torch.testing.assert_close(value, (one[name] + other[name]) / 2)


def test_adapters(tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    for seed, name in enumerate("AB", 1):
        drawn(peft.get_peft_model(llama(0), config), seed).save_pretrained(tmp_path / name)
    line = ["merge", f"{tmp_path}/A", f"{tmp_path}/B", "--weights", "1,3", "-o", f"{tmp_path}/out", "--quiet"]
    assert main(line) == 0
    loaded = peft.PeftModel.from_pretrained(llama(0), tmp_path / "out")
    one, other = (open_checkpoint(tmp_path / name) for name in "AB")
    found = peft.get_peft_model_state_dict(loaded)
    assert set(found) == set(one)
    for name, value in found.items():
        torch.testing.assert_close(value, (one[name] + 3 * other[name]) / 4)
    assert all(value.isfinite().all() for value in loaded(input_ids=torch.arange(5)[None]).logits)
