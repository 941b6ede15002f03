"""Your own language model: any Hugging Face model with any ``peft`` adapter, a few kilobytes to megabytes a peer.

``hubless run examples/adapters.py`` trains a tiny Llama with random weights on bytes; ``--folder PATH`` takes a model
that you have. Every recipe takes one by name as well, once ``hubless models get smollm2`` has fetched it:
``hubless run fedavg --data tokens:smollm2:64:csv,json --model smollm2:4 --peers 2 --partition iid --rounds 2``.
"""

from hubless.learn import Adam, Gossip, Learning, Model, Workload
from hubless.options import Codec, Count, Partition, Positive, Topology
from hubless.parts import make
from hubless.recipe import recipe


def network(folder: str, rank: int) -> Model:
    """The model of every peer: one frozen base for all of them, adapters of its own for each."""
    from peft import LoraConfig
    from transformers import LlamaConfig

    from hubless.models.huggingface import adapted, base, untrained

    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    found = base(folder) if folder else untrained(LlamaConfig(vocab_size=256, **sizes))
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return Model(adapted(found, lora), task="language", name=folder or "tiny llama")


@recipe()
def adapters(
    peers: Count = 4, topology: Topology = "ring", folder: str = "", rank: Count = 4, window: Count = 32,
    partition: Partition = "iid", samples: Count = 400, rounds: Count = 5, lr: Positive = 1e-2, steps: Count = 5,
    batch: Count = 8, codec: Codec = "raw",
) -> Learning:  # fmt: skip
    """Peers tune adapters on their own text and gossip them.

    Args:
        folder: a model that transformers can load, with its tokenizer; empty takes a tiny one with random weights
        rank: of the LoRA updates
        window: length of a sample in tokens
    """
    data = make("data", f"tokens:{folder}:{window}:csv,json" if folder else f"text:{window}:csv,json")
    return Learning(
        Workload(data, partition, peers, network(folder, rank), samples, test=64),
        Adam(lr=lr, steps=steps, batch=batch), Gossip(topology), codec=codec, rounds=rounds,
    )  # fmt: skip


presets = {"tiny": dict(peers=3, rounds=2, samples=40, window=8, steps=1)}
