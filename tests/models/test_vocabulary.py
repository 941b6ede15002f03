import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.models.vocabulary import PAD, Reader, Vocabulary, bits, nats

LETTERS = st.text(alphabet="ab \n", min_size=1, max_size=12)
PAIRS = st.lists(st.text(alphabet="ab \n", min_size=2, max_size=2), unique=True, max_size=6).map(tuple)


def codes(text):
    return torch.tensor([ord(letter) for letter in text])


@given(LETTERS, PAIRS)
@settings(max_examples=60, deadline=None)
def test_tokens_decode_to_the_text(text, pairs):
    vocabulary = Vocabulary(pairs)
    tokens = vocabulary.encode(codes(text))
    assert vocabulary.decode(tokens.tolist()) == text
    assert "".join(vocabulary.split(codes(text))) == text
    real = tokens > 0
    assert bool((real[:-1] >= real[1:]).all()), "padding comes last"
    assert int(vocabulary.lengths[tokens].sum()) == len(text)


@given(st.lists(LETTERS.filter(lambda text: len(text) == 6), min_size=2, max_size=4), PAIRS)
@settings(max_examples=20, deadline=None)
def test_a_stack_of_texts_is_what_its_members_are(texts, pairs):
    vocabulary = Vocabulary(pairs)
    stack = vocabulary.encode(torch.stack([codes(text) for text in texts]))
    assert torch.equal(stack, torch.stack([vocabulary.encode(codes(text)) for text in texts]))


def test_pairs_are_read_from_left_to_right():
    assert Vocabulary(("ab", "bc")).split(codes("abcbc")) == ["ab", "c", "bc"]


def test_the_most_frequent_pairs():
    texts = torch.stack([codes("ababax"), codes("ababcc")])
    assert Vocabulary.of(texts, 2).pairs == ("ab", "ba")
    assert len(Vocabulary.of(texts, 100).pairs) == 5
    assert str(Vocabulary.of(texts, 2)) == "characters and 2 pairs"
    assert str(Vocabulary()) == "characters"


@pytest.mark.parametrize("pairs", [("abc",), ("a",), ("ab", "ab"), ("a\u0141",)])
def test_bad_pairs(pairs):
    with pytest.raises(ConfigError, match="vocabulary"):
        Vocabulary(pairs)


def test_a_vocabulary_needs_padding():
    with pytest.raises(ConfigError, match="padding"):
        Vocabulary(special=())


def test_cost_is_a_character_whatever_the_tokens_are():
    text = codes("abab")[None]
    for vocabulary, tokens, said in ((Vocabulary(), 3, 3), (Vocabulary(("ab",)), 1, 2)):
        flat = torch.zeros(1, 4, len(vocabulary))
        cost = nats(vocabulary)(flat, text)
        assert cost.shape == (1,)
        assert float(cost) == pytest.approx(math.log(len(vocabulary)) * tokens / said)
    assert bits(math.log(2)) == 1


def test_a_perfect_model_costs_nothing_and_padding_does_not_count():
    vocabulary = Vocabulary(("ab",))
    texts = torch.stack([codes("abab"), codes("bbab")])
    tokens = vocabulary.encode(texts)
    assert tokens[0].tolist().count(0) == 2
    out = torch.full((2, 4, len(vocabulary)), -50.0)
    out[:, :-1].scatter_(-1, tokens[:, 1:, None], 50.0)
    out[0, 1:] = 0  # nobody asks what follows the last token
    assert nats(vocabulary)(out, texts).tolist() == pytest.approx([0, 0], abs=1e-5)


def test_a_reader_is_causal():
    torch_rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(1)
        model = Reader(Vocabulary(("ab",)), 6, width=8, layers=1, heads=2)
    texts = torch.randint(97, 100, (2, 6), generator=torch_rng)
    out = model(texts)
    assert out.shape == (2, 6, 256 + 1 + 1)
    later = texts.clone()
    later[:, -1] = ord("z")
    same = int((model.vocabulary.encode(texts) == model.vocabulary.encode(later)).int().cumprod(1).sum(1).min())
    assert same >= 2
    torch.testing.assert_close(model(later)[:, :same], out[:, :same])
    assert "characters and 1 pairs" in str(model)
    assert PAD in model.vocabulary.pieces
