"""What tests all over the house stand on."""

import pytest


@pytest.fixture(scope="session")
def llama():
    """A tiny Llama with random weights: 300 tokens, two layers of width 16."""
    transformers = pytest.importorskip("transformers", reason="the extra llm is not installed")
    pytest.importorskip("peft", reason="the extra llm is not installed")
    from hubless.models.huggingface import untrained

    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    return untrained(config)


@pytest.fixture(scope="session")
def llama_folder(llama, tmp_path_factory):
    """The same with a byte-level tokenizer, as transformers stores them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    where = tmp_path_factory.mktemp("llama")
    llama.save_pretrained(where)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["def f(x): return x"] * 3, trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    )
    made.save(str(where / "tokenizer.json"))
    return where
